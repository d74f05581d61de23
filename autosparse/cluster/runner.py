"""Running a list of jobs, or a graph of them, wherever that is."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from autosparse.cluster import provenance
from autosparse.cluster.job import Job, describe
from autosparse.cluster.outcome import Failure, say
from autosparse.cluster.resources import Resources
from autosparse.cluster.stage import Stage, blocked, left
from autosparse.errors import UserError
from autosparse.files import check_writable, read_record

Runner = Callable[[list[Stage], Resources, Path], list[Failure]]


def launch(jobs: Sequence[Job], resources: Resources, output: Path, name: str) -> None:
    """Run the jobs that are not complete: a graph of one stage, see `launch_graph`."""
    launch_graph([Stage(name, tuple(jobs))], resources, output)


def launch_graph(stages: Sequence[Stage], resources: Resources, output: Path) -> None:
    """Run the jobs that are not complete, then print every job's folder, one a line, on standard output.

    On Slurm they are submitted, each stage as one array with a dependency on those before, except for jobs that are in
    the queue already; with `resources.wait` it returns when all have ended. Elsewhere they are run to their end. A job
    that fails keeps only the stages after its own from running. Progress goes to standard error.

    Args:
        stages: the graph, heads first.
        resources: where and with what.
        output: the folder of all runs; Slurm's and submitit's files go to `output/submitted`, if not elsewhere.

    Raises:
        UserError: a job cannot run; two jobs share a folder; a folder holds another run or takes no files; an input is
            missing that no earlier stage makes; data are missing that this machine needs; Slurm refuses; jobs failed.
    """
    _check(stages, resources, output)
    resources = resources.resolve()
    todo, failures = _incomplete(stages)
    root = (resources.log_dir or output / "submitted").absolute()
    if todo:
        check_writable(output, "output")
        check_writable(root, "log-dir")
        _check_data(todo, resources)
    if resources.cluster != "inline" and (re.search(r"[%\\]", str(root)) or not str(root).isprintable()):
        raise UserError(f"{str(root)!r}: Slurm takes no %, backslash or line break in file names; use another log-dir")
    jobs = [job for stage in stages for job in stage.jobs]
    to_run = {job.folder for job in todo}
    complete = {job.folder for job in jobs} - to_run - {failed.job.folder for failed in failures}
    for stage in stages:
        _announce(stage, to_run, complete, resources.cluster, named=len(stages) > 1)
    runnable, failures = _without_blocked(stages, todo, failures)
    if resources.dry_run:
        from autosparse.cluster.submit import show

        show(runnable, resources, root)
    else:
        _mend_status(complete)
        if runnable:
            failures += _runner(resources.cluster)(runnable, resources, root)
    for failed in failures:
        say(f"failed: {failed.job.folder}: {failed.error}")
    if not resources.dry_run:
        for job in jobs:
            print(job.folder)
    if failures:
        why = f"autosparse runs logs {failures[0].job.folder} says more"
        raise UserError(f"{len(failures)} of {len(jobs)} runs failed; {why}; the same command runs them again")


def _announce(stage: Stage, to_run: set[Path], complete: set[Path], cluster: str, *, named: bool) -> None:
    """Say how many runs of a stage there are, are complete and are to be run, and where."""
    folders = {job.folder for job in stage.jobs}
    name = f"{stage.name}: " if named else ""
    counts = f"{len(folders)} runs, {len(folders & complete)} complete, {len(folders & to_run)} to run"
    after = f", after {' and '.join(stage.after)}" if stage.after else ""
    say(f"{name}{counts} ({cluster}{after})")


def _mend_status(complete: set[Path]) -> None:
    """Let complete runs say that they are, where a loss of power or a full disk kept them from it."""
    for folder in complete:
        status = folder / "status.json"
        if status.is_file() and read_record(status).get("state") != "complete":
            provenance.write_status(folder, "complete", None)


def _runner(cluster: str) -> Runner:
    """What runs stages there; imported only now, as it waits for PyTorch."""
    if cluster == "slurm":
        from autosparse.cluster import submit

        return submit.run
    if cluster == "local":
        from autosparse.cluster import local

        return local.run
    from autosparse.cluster import inline

    return inline.run


def _check(stages: Sequence[Stage], resources: Resources, output: Path) -> None:
    if not any(stage.jobs for stage in stages):
        raise UserError("nothing to run: each list of the grid (seeds, criteria, ...) needs a value")
    if output.exists() and not output.is_dir():
        raise UserError(f"the output {output} is a file; name a folder")
    seen = set[Path]()
    names = list[str]()
    for stage in stages:
        if stage.name in names or not set(stage.after) <= set(names):
            raise ValueError(f"stage {stage.name} must have a name of its own and come after {stage.after}")
        names.append(stage.name)
        for job in stage.jobs:
            job.check()
            if job.folder in seen:
                raise UserError(f"two runs of this grid have the folder {job.folder}; is a value given twice?")
            seen.add(job.folder)
            if missing := job.missing():
                if not stage.after and not resources.after:
                    raise UserError(missing)
            else:
                difference = None
                with suppress(UserError):  # a damaged one is this run's failure, see `_incomplete`
                    difference = provenance.config_difference(job)
                if difference:
                    raise UserError(difference)


def _check_data(todo: list[Job], resources: Resources) -> None:
    """Data must be on this machine only where it runs the jobs."""
    for absent in dict.fromkeys(filter(None, (job.absent() for job in todo))):
        if resources.cluster != "slurm" and not resources.dry_run:
            raise UserError(absent)
        say(f"{absent}; the machines that run the jobs need it")


def _incomplete(stages: Sequence[Stage]) -> tuple[list[Job], list[Failure]]:
    """The jobs to run, and those whose output is damaged, which must not keep the others from running."""
    todo, damaged = list[Job](), list[Failure]()
    for job in (job for stage in stages for job in stage.jobs):
        try:
            if job.missing():
                todo.append(job)
                continue
            provenance.config_difference(job)
            if not job.is_complete():
                todo.append(job)
        except UserError as error:
            damaged.append(Failure(job, describe(error)))
    return todo, damaged


def _without_blocked(
    stages: Sequence[Stage], todo: list[Job], failures: list[Failure]
) -> tuple[list[Stage], list[Failure]]:
    """What can run in spite of damaged outputs, and the failures with those of the jobs that cannot."""
    damaged = {failure.job.folder for failure in failures}
    failed = {stage.name for stage in stages if any(job.folder in damaged for job in stage.jobs)}
    cannot = list[Failure]()
    for stage in stages:
        if found := [failure for failure in blocked(stage, failed) if failure.job in todo]:
            failed.add(stage.name)
            cannot += found
    stopped = {failure.job.folder for failure in cannot}
    return left(stages, [job for job in todo if job.folder not in stopped]), failures + cannot
