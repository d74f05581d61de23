"""Submitting a graph of jobs to Slurm: each stage as one array that depends on those before."""

import contextlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from autosparse.cluster import batch, logs, provenance, slurm, waiting
from autosparse.cluster.attempt import Attempt
from autosparse.cluster.job import Job
from autosparse.cluster.outcome import Failure, say
from autosparse.cluster.resources import DEFAULT_CPUS, DEFAULT_REQUEUES, Resources
from autosparse.cluster.stage import Stage, blocked
from autosparse.errors import UserError
from autosparse.files import naming, read_record

Placed = dict[Path, tuple[str, Path]]  # a run's folder -> the id and the log of its job


def run(stages: list[Stage], resources: Resources, root: Path) -> list[Failure]:
    """Submit what is not in the queue already and, if asked to, wait; returns the jobs that failed.

    Raises:
        UserError: Slurm refuses, or does not answer; nothing is submitted then.
    """
    queue = slurm.queue()
    if queue is None:
        raise UserError("Slurm does not say what is in its queue (squeue); try again")
    for job_id in resources.after:
        if not slurm.knows(job_id):
            raise UserError(f"after {job_id}: Slurm does not know this job (any more); leave it out if it ended well")
    jobs = [job for stage in stages for job in stage.jobs]
    queued: Placed = {job.folder: place for job in jobs if (place := _queued(job, queue, root))}
    if queued:
        say(f"{len(queued)} of them in the queue already: {_arrays(job_id for job_id, _ in queued.values())}")
    # of a complete run, too: its job may have lost its node just then, and the next array waits for it
    if held := [job_id for job_id in logs.job_ids(root) if job_id in queue and queue[job_id].held]:
        say(f"held, and released now: {' '.join(held)}")
        slurm.release(held)
    logs.prune(root, "slurm", queue)
    stale = _stale(stages, queued, queue)
    queued = {folder: place for folder, place in queued.items() if folder not in stale}
    queued |= _submit(stages, queued, resources, root)
    slurm.cancel([*dict.fromkeys(stale.values())])
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
    stale, again = dict[Path, str](), set[str]()
    for stage in stages:
        waiting = {job.folder: queued[job.folder][0] for job in stage.jobs if job.folder in queued}
        if again & set(stage.after):
            stale |= {folder: job_id for folder, job_id in waiting.items() if queue[job_id].state == "PENDING"}
        if any(job.folder not in queued or job.folder in stale for job in stage.jobs):
            again.add(stage.name)
    return stale


def _has_run(job: Job, job_id: str) -> bool:
    """Whether the run was started by this very job of Slurm."""
    return read_record(job.folder / "status.json").get("job") == job_id


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
                found = batch.submit(_attempts(new, resources), _of(stage, resources, ids), stage.name, folder)
                submitted.append((folder, new, found))
                ids[stage.name] += _arrays(each.job_id for each in found).split()
            for folder, new, found in submitted:
                logs.record(folder, "slurm", {each.job_id: job.folder for job, each in zip(new, found, strict=True)})
                for job, each in zip(new, found, strict=True):
                    provenance.write_submission(job, each.job_id, str(each.log))
                    with naming(job.folder / "batch.sh"):
                        shutil.copyfile(each.script, job.folder / "batch.sh")
                    placed[job.folder] = each.job_id, each.log
    except BaseException:
        slurm.cancel([each.job_id for *_, found in submitted for each in found])
        raise
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


def _attempts(jobs: Sequence[Job], resources: Resources) -> list[Attempt]:
    cpus = resources.cpus_per_task or DEFAULT_CPUS
    requeues = DEFAULT_REQUEUES if resources.max_requeues is None else resources.max_requeues
    return [Attempt(job, cpus, requeues) for job in jobs]


def _queued(job: Job, queue: dict[str, slurm.State], root: Path) -> tuple[str, Path] | None:
    """Return the id and log of the job in the queue that works on a run, if there is one.

    Raises:
        UserError: it was submitted with another configuration.
    """
    path = job.folder / "job.json"
    if not path.is_file():
        return None
    said = read_record(path)
    if not said and (place := logs.place_of(root, job.folder)):  # it is damaged
        said = {"job": place[0], "log": str(place[1])}
        provenance.write_submission(job, *said.values())
    if said.get("job") not in queue:
        return None
    if (config := said.get("config")) and (difference := provenance.config_difference(job, config)):
        raise UserError(f"{difference}; job {said['job']} works on it: autosparse runs cancel {job.folder}")
    return said["job"], Path(said["log"])


def show(stages: list[Stage], resources: Resources, root: Path) -> None:
    """The runs and, for Slurm, the batch scripts that would be submitted."""
    for stage in stages:
        for job in stage.jobs:
            print(job.folder)
    if resources.cluster == "slurm":
        ids = dict[str, list[str]]()
        with batch.rehearsal() as scratch:
            for stage in stages:
                folder = logs.next_folder(root, stage.name)
                tasks = _attempts(stage.jobs, resources)
                found = batch.submit(tasks, _of(stage, resources, ids), stage.name, Path(f"{scratch}{folder}"))
                ids[stage.name] = _arrays(each.job_id for each in found).split()
                for script in dict.fromkeys(each.script for each in found):
                    print(script.read_text().replace(scratch, ""))
