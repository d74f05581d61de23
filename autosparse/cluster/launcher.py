"""Launching a list of jobs, or a graph of them, on Slurm, as processes of this machine, or in this process."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from autosparse.cluster import provenance
from autosparse.cluster.job import Failure, Job, Stage, blocked, describe
from autosparse.cluster.progress import say
from autosparse.cluster.resources import Resources
from autosparse.errors import UserError
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
    _check(stages, resources, output)
    resources = resources.resolve()
    jobs = [job for stage in stages for job in stage.jobs]
    todo, failures = _incomplete(jobs)
    root = (resources.log_dir or output / "submitted").absolute()
    if todo:
        check_writable(output, "output")
        if resources.cluster == "slurm":
            check_writable(root, "log-dir")
        _check_data(todo, resources)
    if resources.cluster == "slurm" and (re.search(r"[%\\]", str(root)) or not str(root).isprintable()):
        raise UserError(f"{str(root)!r}: Slurm takes no %, backslash or line break in file names; use another log-dir")
    to_run = {job.folder for job in todo}
    complete = {job.folder for job in jobs} - to_run - {failed.job.folder for failed in failures}
    for stage in stages:
        _announce(stage, to_run, complete, resources.cluster, named=len(stages) > 1)
    runnable, failures = _without_blocked(stages, todo, failures)
    if resources.dry_run:
        for job in (job for stage in runnable for job in stage.jobs):
            print(job.folder)
        if resources.cluster == "slurm":
            from autosparse.cluster import submit

            submit.show(runnable, resources, root)
    else:
        _mend_status(complete)
        if runnable and resources.cluster != "slurm":
            provenance.write_plan(job for stage in runnable for job in stage.jobs)
        if runnable:
            failures += _run(runnable, resources, root)
    for failed in failures:
        say(f"failed: {failed.job.folder}: {failed.error}")
    if not resources.dry_run:
        for job in jobs:
            print(job.folder)
    if failures:
        why = f"autosparse runs logs {failures[0].job.folder} says more"
        raise UserError(f"{len(failures)} of {len(jobs)} runs failed; {why}; the same command runs them again")


def _run(stages: list[Stage], resources: Resources, root: Path) -> list[Failure]:
    """Run stages on a cluster; return the jobs that failed. Modules that import PyTorch are imported only now."""
    if resources.cluster == "slurm":
        from autosparse.cluster import submit

        return submit.run(stages, resources, root)
    if resources.cluster == "local":
        from autosparse.cluster import workers

        return workers.run(stages, resources)
    return _run_inline(stages, resources)


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


def _announce(stage: Stage, to_run: set[Path], complete: set[Path], cluster: str, *, named: bool) -> None:
    """Print how many runs of a stage are complete and how many are to be run, and where."""
    folders = {job.folder for job in stage.jobs}
    name = f"{stage.name}: " if named else ""
    counts = f"{len(folders)} runs, {len(folders & complete)} complete, {len(folders & to_run)} to run"
    after = f", after {' and '.join(stage.after)}" if stage.after else ""
    say(f"{name}{counts} ({cluster}{after})")


def _mend_status(complete: set[Path]) -> None:
    """Write the status of complete runs where a loss of power or a full disk has damaged it."""
    for folder in complete:
        status = folder / "status.json"
        if status.is_file() and read_record(status).get("state") != "complete":
            provenance.write_status(folder, "complete", None)


def _check(stages: Sequence[Stage], resources: Resources, output: Path) -> None:
    if not any(stage.jobs for stage in stages):
        raise UserError("nothing to run: each list of the grid (seeds, criteria, ...) needs a value")
    if output.exists() and not output.is_dir():
        raise UserError(f"the output {output} is a file; name a folder")
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
            if missing := job.missing():
                if not stage.after and not resources.after:
                    raise UserError(missing)
            else:
                difference = None
                with suppress(UserError):  # A damaged configuration is a failure of this run, see `_incomplete`.
                    difference = provenance.config_difference(job)
                if difference:
                    raise UserError(difference)


def _check_data(todo: list[Job], resources: Resources) -> None:
    """Refuse jobs whose data are missing on this machine if it runs them."""
    for absent in dict.fromkeys(filter(None, (job.absent() for job in todo))):
        if resources.cluster != "slurm" and not resources.dry_run:
            raise UserError(absent)
        say(f"{absent}; the machines that run the jobs need it")


def _incomplete(jobs: Sequence[Job]) -> tuple[list[Job], list[Failure]]:
    """Return the jobs to run, and those whose output is damaged, which must not keep the others from running."""
    todo, damaged = list[Job](), list[Failure]()
    for job in jobs:
        try:
            if not job.missing():
                provenance.config_difference(job)  # It raises if the configuration is damaged.
                if job.is_complete():
                    continue
            todo.append(job)
        except UserError as error:
            damaged.append(Failure(job, describe(error)))
    return todo, damaged


def _without_blocked(
    stages: Sequence[Stage], todo: list[Job], damaged: list[Failure]
) -> tuple[list[Stage], list[Failure]]:
    """Return the stages that can run although some outputs are damaged, and all jobs that cannot.

    Stages without jobs to run are left out, also of the dependencies.
    """
    folders = {failed.job.folder for failed in damaged}
    failed = {stage.name for stage in stages if any(job.folder in folders for job in stage.jobs)}
    failures = list(damaged)
    to_run = {job.folder for job in todo}
    runnable = list[Stage]()
    for stage in stages:
        jobs = tuple(job for job in stage.jobs if job.folder in to_run)
        if jobs and (errors := blocked(replace(stage, jobs=jobs), failed)):
            failed.add(stage.name)
            failures += errors
        elif jobs:
            names = {before.name for before in runnable}
            after = tuple(name for name in stage.after if name in names)
            runnable.append(replace(stage, jobs=jobs, after=after))
    return runnable, failures
