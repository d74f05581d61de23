"""Running a list of jobs, or a graph of them, wherever that is."""

import contextlib
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from autosparse.cluster import batch, local, logs, provenance, slurm, waiting
from autosparse.cluster.job import Job, Task, describe
from autosparse.cluster.outcome import Failure, say
from autosparse.cluster.provenance import config_difference
from autosparse.cluster.resources import DEFAULT_CPUS, DEFAULT_REQUEUES, Resources
from autosparse.cluster.stage import Stage, blocked, left
from autosparse.errors import UserError
from autosparse.files import read_json


def launch(jobs: Sequence[Job], resources: Resources, output: Path, name: str) -> None:
    """Run the jobs that are not complete: a graph of one stage, see `launch_graph`."""
    launch_graph([Stage(name, tuple(jobs))], resources, output)


def launch_graph(stages: Sequence[Stage], resources: Resources, output: Path) -> None:
    """Run the jobs that are not complete, then print every job's folder, one a line, on standard output.

    On Slurm they are submitted, each stage as one array with a dependency on those before, but for jobs that are in the
    queue already; with `resources.wait` it returns when all have ended. Elsewhere they are run to their end. A job that
    fails keeps only the stages after its own from running. Progress goes to standard error.

    Args:
        stages: the graph, heads first.
        resources: where and with what.
        output: the folder of all runs; Slurm's and submitit's files go to `output/submitted`, if not elsewhere.

    Raises:
        UserError: two jobs share a folder, a folder holds another run, a job's input is missing and no stage before
            makes it, Slurm refuses, or jobs failed.
    """
    _check(stages, resources, output)
    resources = resources.resolve()
    todo, failures = _incomplete(stages)
    root = (resources.log_dir or output / "submitted").absolute()
    if resources.cluster != "inline" and re.search(r"[%\\]", str(root)):
        raise UserError(f"{root}: Slurm gives % and backslashes in file names a meaning; choose another --log-dir")
    damaged = {failed.job.folder for failed in failures}
    for stage in stages:
        to_run = sum(job in todo for job in stage.jobs)
        done = len(stage.jobs) - to_run - sum(job.folder in damaged for job in stage.jobs)
        name = f"{stage.name}: " if len(stages) > 1 else ""
        after = f", after {' and '.join(stage.after)}" if stage.after else ""
        say(f"{name}{len(stage.jobs)} runs, {done} complete, {to_run} to run ({resources.cluster}{after})")
    runnable, failures = _without_blocked(stages, todo, failures)
    jobs = [job for stage in stages for job in stage.jobs]
    if resources.dry_run:
        _show(runnable, resources, root)
    elif runnable:
        run = {"slurm": _slurm, "local": local.run, "inline": _inline}[resources.cluster]
        failures += run(runnable, resources, root)
    for failed in failures:
        say(f"failed: {failed.job.folder}: {failed.error}")
    for job in jobs if not resources.dry_run else ():
        print(job.folder)
    if failures:
        raise UserError(f"{len(failures)} of {len(jobs)} runs failed; the same command runs them again")


def _incomplete(stages: Sequence[Stage]) -> tuple[list[Job], list[Failure]]:
    """The jobs to run, and those whose output is damaged, which must not keep the others from running."""
    todo, damaged = list[Job](), list[Failure]()
    for job in (job for stage in stages for job in stage.jobs):
        try:
            if job.missing() or not job.is_complete():
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


def _inline(stages: list[Stage], resources: Resources, root: Path) -> list[Failure]:
    failures, failed, number = list[Failure](), set[str](), 0
    total = sum(len(stage.jobs) for stage in stages)
    for stage in stages:
        found = blocked(stage, failed)
        for job in stage.jobs if not found else ():
            number += 1
            say(f"[{number}/{total}] {job.folder}")
            provenance.write_submission(job.folder, None, None)
            try:
                Task(job, resources.cpus_per_task)()
            except Exception as error:  # the other jobs go on; the traceback is in the run's log
                found.append(Failure(job, describe(error)))
        if found:
            failed.add(stage.name)
            failures += found
    return failures


Placed = dict[Path, tuple[str, Path]]  # a run's folder -> the id and the log of its job


def _slurm(stages: list[Stage], resources: Resources, root: Path) -> list[Failure]:
    queue = slurm.queue()
    if queue is None:
        raise UserError("Slurm does not say what is in its queue (squeue); try again")
    for job_id in resources.after:
        if not slurm.knows(job_id):
            raise UserError(f"--after {job_id}: Slurm does not know this job (any more); leave it out if it ended well")
    jobs = [job for stage in stages for job in stage.jobs]
    queued: Placed = {job.folder: place for job in jobs if (place := _queued(job, queue))}
    if queued:
        say(f"{len(queued)} of them in the queue already: {_arrays(job_id for job_id, _ in queued.values())}")
    logs.prune(root, "slurm", queue)
    stale = _stale(stages, queued, queue)
    queued = {folder: place for folder, place in queued.items() if folder not in stale}
    queued |= _submit(stages, queued, resources, root)
    slurm.cancel(list(stale.values()))
    if not resources.wait:
        return []
    try:
        failures = waiting.wait([(job, *queued[job.folder]) for job in jobs], stages[-1].name)
    except KeyboardInterrupt:
        arrays = _arrays(job_id for job_id, _ in queued.values())
        say(f"the jobs go on without this; to end them: scancel {arrays}")
        raise
    failed = {stage.name for stage in stages if {job.folder for job in stage.jobs} & {f.job.folder for f in failures}}
    why = {each.job.folder: each for stage in stages for each in blocked(stage, failed)}
    return [f if _has_run(f.job, queued[f.job.folder][0]) else why.get(f.job.folder, f) for f in failures]


def _stale(stages: list[Stage], queued: Placed, queue: dict[str, slurm.State]) -> dict[Path, str]:
    """The jobs that wait for those of an earlier command alone, while what they need is submitted again now."""
    stale, anew = dict[Path, str](), set[str]()
    for stage in stages:
        waiting = {job.folder: queued[job.folder][0] for job in stage.jobs if job.folder in queued}
        if anew & set(stage.after):
            stale |= {folder: job_id for folder, job_id in waiting.items() if queue[job_id].state == "PENDING"}
        if any(job.folder not in queued or job.folder in stale for job in stage.jobs):
            anew.add(stage.name)
    return stale


def _has_run(job: Job, job_id: str) -> bool:
    """Whether the run was started by this very job of Slurm."""
    status = job.folder / "status.json"
    return status.is_file() and read_json(status).get("job") == job_id


def _submit(stages: list[Stage], queued: Placed, resources: Resources, root: Path) -> Placed:
    """Submit what is not queued, all of it or nothing; returns each new run's job id and log."""
    placed: Placed = {}
    submitted = list[tuple[Path, list[Job], list[batch.Submitted]]]()
    ids = dict[str, list[str]]()  # of each stage
    try:
        with contextlib.ExitStack() as folders:
            for stage in stages:
                ids[stage.name] = [queued[job.folder][0] for job in stage.jobs if job.folder in queued]
                new = [job for job in stage.jobs if job.folder not in queued]
                if not new:
                    continue
                folder = folders.enter_context(logs.claimed(root, stage.name))
                found = batch.submit(_tasks(new, resources), _of(stage, resources, ids), stage.name, folder)
                submitted.append((folder, new, found))
                ids[stage.name] += _arrays(each.job_id for each in found).split()
    except BaseException:
        slurm.cancel([each.job_id for *_, found in submitted for each in found])
        raise
    for folder, new, found in submitted:
        logs.record(folder, "slurm", {each.job_id: job.folder for job, each in zip(new, found, strict=True)})
        for job, each in zip(new, found, strict=True):
            provenance.write_submission(job.folder, each.job_id, str(each.log))
            shutil.copyfile(each.script, job.folder / "batch.sh")
            placed[job.folder] = each.job_id, each.log
    if placed:
        say(f"submitted as {_arrays(job_id for job_id, _ in placed.values())}; see squeue --me")
    return placed


def _of(stage: Stage, resources: Resources, ids: dict[str, list[str]]) -> Resources:
    """What the jobs of a stage are given; `ids` of the jobs of the stages before."""
    heads = [job_id for name in stage.after for job_id in ids[name]]
    own = resources.single() if stage.single else resources
    return replace(own, after=tuple(dict.fromkeys((*resources.after, *heads))))


def _arrays(job_ids: Iterable[str]) -> str:
    """The arrays, or plain jobs, that job ids belong to."""
    return " ".join(dict.fromkeys(job_id.split("_")[0] for job_id in job_ids))


def _tasks(jobs: list[Job], resources: Resources) -> list[Task]:
    cpus = resources.cpus_per_task or DEFAULT_CPUS
    requeues = DEFAULT_REQUEUES if resources.max_requeues is None else resources.max_requeues
    return [Task(job, cpus, requeues) for job in jobs]


def _queued(job: Job, queue: dict[str, slurm.State]) -> tuple[str, Path] | None:
    """Id and log of the job that a run waits or works in, if there is one."""
    path = job.folder / "job.json"
    if not path.is_file():
        return None
    said = read_json(path)
    return (said["job"], Path(said["log"])) if said["job"] in queue else None


def _check(stages: Sequence[Stage], resources: Resources, output: Path) -> None:
    if not any(stage.jobs for stage in stages):
        raise UserError("nothing to run: each of the grid's flags (--seeds, --criteria, ...) needs a value")
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; name a folder")
    seen = set[Path]()
    names = list[str]()
    for stage in stages:
        if stage.name in names or not set(stage.after) <= set(names):
            raise ValueError(f"stage {stage.name} must have a name of its own and come after {stage.after}")
        names.append(stage.name)
        for job in stage.jobs:
            if job.folder in seen:
                raise UserError(f"two runs of this grid have the folder {job.folder}; is a value given twice?")
            seen.add(job.folder)
            if missing := job.missing():
                if not stage.after and not resources.after:
                    raise UserError(missing)
            elif difference := config_difference(job.folder, job.config()):
                raise UserError(difference)


def _show(stages: list[Stage], resources: Resources, root: Path) -> None:
    """The runs and, for Slurm, the batch scripts that would be submitted."""
    for stage in stages:
        for job in stage.jobs:
            print(job.folder)
    if resources.cluster == "slurm":
        ids = dict[str, list[str]]()
        with batch.rehearsal() as scratch:
            for stage in stages:
                folder = logs.next_folder(root, stage.name)
                tasks = _tasks(list(stage.jobs), resources)
                found = batch.submit(tasks, _of(stage, resources, ids), stage.name, Path(f"{scratch}{folder}"))
                ids[stage.name] = _arrays(each.job_id for each in found).split()
                for script in dict.fromkeys(each.script for each in found):
                    print(script.read_text().replace(scratch, ""))
