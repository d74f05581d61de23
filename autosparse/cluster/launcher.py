"""Launching a list of jobs, or a graph of them, on Slurm, as processes of this machine, or in this process."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from autosparse.cluster import records
from autosparse.cluster.job import OUTPUT_LOG, SUBMITTED, Failure, Job, Stage, blocked, describe
from autosparse.cluster.records import say
from autosparse.cluster.resources import Resources
from autosparse.errors import UserError, counted
from autosparse.files import check_writable, read_record


def launch(jobs: Sequence[Job], resources: Resources, output: Path, name: str) -> None:
    """Run the jobs that are not complete: a graph of one stage, see `launch_graph`.

    Args:
        jobs: jobs that do not depend on one another.
        resources: cluster, and the resources of each job.
        output: folder of all runs.
        name: name of the jobs in the queue.
    """
    launch_graph([Stage(name, tuple(jobs))], resources, output)


def launch_graph(stages: Sequence[Stage], resources: Resources, output: Path) -> None:
    """Run the jobs that are not complete, then print the folder of every job, one per line, on standard output.

    On Slurm they are submitted, each stage as one array that depends on the stages before it, except for jobs that are
    in the queue already; with `resources.wait` the function returns when all have ended. On other clusters they are run
    to their end. A job that fails keeps only the stages after its own from running. Progress goes to standard error.

    Args:
        stages: graph of jobs, heads first.
        resources: cluster, and the resources of each job.
        output: folder of all runs; files of Slurm and submitit go to `output/submitted`, unless there is a log-dir.

    Raises:
        UserError: a job cannot run; two jobs share a folder; a folder holds another run or takes no files; an input is
            missing that no earlier stage makes; data are missing that this machine needs; Slurm refuses; jobs failed.
    """
    resources = resources.resolve()
    todo, damaged = _check(stages, resources, output)
    jobs = [job for stage in stages for job in stage.jobs]
    root = (resources.log_dir or output / SUBMITTED).absolute()
    if todo:
        check_writable(output, "output")
        if resources.cluster == "slurm":
            check_writable(root, "log-dir")
        _check_data(todo.values(), resources)
    if resources.cluster == "slurm" and (re.search(r"[%\\]", str(root)) or not str(root).isprintable()):
        raise UserError(f"{str(root)!r}: Slurm takes no %, backslash or line break in file names; use another log-dir")
    complete = {job.folder for job in jobs} - {*todo, *damaged}
    for stage in stages:
        folders = {job.folder for job in stage.jobs}
        name = f"{stage.name}: " if len(stages) > 1 else ""
        counts = (
            f"{counted(len(folders), 'run')}, {len(folders & complete)} complete, {len(folders & todo.keys())} to run"
        )
        after = f", after {' and '.join(stage.after)}" if stage.after else ""
        say(f"{name}{counts} ({resources.cluster}{after})")
    runnable, failures = _runnable(stages, todo, damaged)
    if resources.dry_run:
        for job in (job for stage in runnable for job in stage.jobs):
            print(job.folder)
        if resources.cluster == "slurm":
            from autosparse.cluster import submit

            submit.show(runnable, resources, root)
    else:
        for folder in complete:  # A loss of power or a full disk may have damaged the status.
            if (folder / "status.json").is_file() and read_record(folder / "status.json").get("state") != "complete":
                records.write_status(folder, "complete", None)
        if runnable:
            failures += _run(runnable, resources, root, jobs)
    for failed in failures:
        say(f"failed: {failed.job.folder}: {failed.error}")
    if not resources.dry_run:
        for job in jobs:
            print(job.folder)
    if failures:
        why = f"autosparse runs logs {failures[0].job.folder} says more"
        raise UserError(
            f"{len(failures)} of {counted(len(jobs), 'run')} failed; {why}; the same command runs them again"
        )


def say_next(jobs: Sequence[Job], resources: Resources, *command: str) -> None:
    """Print the command that continues from these runs on standard error."""
    if not resources.dry_run:
        when = "" if all(job.is_complete() for job in jobs) else ", when these runs are complete"
        say(f"next{when}: {shlex.join(command)}")


def _run(stages: list[Stage], resources: Resources, root: Path, jobs: list[Job]) -> list[Failure]:
    """Run stages of jobs on a cluster; return the jobs that failed. Modules that import PyTorch are imported only now.

    Runs of this machine have a record before the first of them starts, so that `autosparse runs` counts them all.
    """
    if resources.cluster == "slurm":
        from autosparse.cluster import submit

        return submit.run(stages, resources, root, [job.folder for job in jobs])
    local = resources.cluster == "local"
    for job in (job for stage in stages for job in stage.jobs):
        with suppress(OSError):  # The run itself reports it.
            records.write_submission(job, None, job.folder / OUTPUT_LOG if local else None)
    if not local:
        return _run_inline(stages, resources)
    from autosparse.cluster import workers

    return workers.run(stages, resources)


def _run_inline(stages: list[Stage], resources: Resources) -> list[Failure]:
    """Run the jobs in this process, one after the other; return those that failed or were not started."""
    from autosparse.cluster.attempt import Attempt

    failures, failed, number = list[Failure](), set[str](), 0
    total = sum(len(stage.jobs) for stage in stages)
    for stage in stages:
        errors = blocked(stage, failed)
        for job in stage.jobs if not errors else ():
            number += 1
            say(f"[{number}/{total}] {job.folder}")
            try:
                Attempt(job, resources.cpus_per_task)()
            except Exception as error:  # The other jobs continue; the traceback is in the run's log.
                errors.append(Failure(job, describe(error)))
        if errors:
            failed.add(stage.name)
            failures += errors
    return failures


def _check(stages: Sequence[Stage], resources: Resources, output: Path) -> tuple[dict[Path, Job], dict[Path, Failure]]:
    """Refuse what cannot run; return the jobs to run by their folders, and those whose output is damaged.

    Damaged ones must not keep the others from running.
    """
    if not any(stage.jobs for stage in stages):
        raise UserError("nothing to run: each list of the grid (seeds, criteria, ...) needs a value")
    if output.exists() and not output.is_dir():
        raise UserError(f"the output {output} is a file; name a folder")
    todo, damaged = dict[Path, Job](), dict[Path, Failure]()
    folders, names = set[Path](), list[str]()
    for stage in stages:
        if stage.name in names or not set(stage.after) <= set(names):
            raise ValueError(f"stage {stage.name} must have a name of its own and come after {stage.after}")
        names.append(stage.name)
        for job in stage.jobs:
            job.check()
            if job.folder in folders:
                raise UserError(f"two runs of this grid have the folder {job.folder}; is a value given twice?")
            folders.add(job.folder)
            missing = job.missing()
            if missing and not stage.after and not resources.after:
                raise UserError(missing)
            try:
                difference = None if missing else records.config_difference(job)
                if missing or difference or not job.is_complete():
                    todo[job.folder] = job
            except UserError as error:
                damaged[job.folder], difference = Failure(job, describe(error)), None
            if difference:
                raise UserError(difference)
    return todo, damaged


def _check_data(todo: Iterable[Job], resources: Resources) -> None:
    """Refuse jobs whose data are missing on this machine if it runs them."""
    for absent in dict.fromkeys(filter(None, (job.absent() for job in todo))):
        if resources.cluster != "slurm" and not resources.dry_run:
            raise UserError(absent)
        say(f"{absent}; the machines that run the jobs need it")


def _runnable(
    stages: Sequence[Stage], todo: Mapping[Path, Job], damaged: Mapping[Path, Failure]
) -> tuple[list[Stage], list[Failure]]:
    """Return the stages that can run although some outputs are damaged, and all jobs that cannot.

    Stages without jobs to run are left out, also of the dependencies.
    """
    failures = [*damaged.values()]
    failed = {stage.name for stage in stages if any(job.folder in damaged for job in stage.jobs)}
    runnable = dict[str, Stage]()
    for stage in stages:
        left = replace(stage, jobs=tuple(job for job in stage.jobs if job.folder in todo))
        if errors := blocked(left, failed):
            failed.add(stage.name)
            failures += errors
        elif left.jobs:
            runnable[stage.name] = replace(left, after=tuple(name for name in stage.after if name in runnable))
    return [*runnable.values()], failures
