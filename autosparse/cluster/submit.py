"""A graph of jobs on Slurm: each stage is one array that depends on the arrays of the stages before it."""

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from autosparse.cluster import batch, lease, provenance, slurm, submissions
from autosparse.cluster.attempt import Attempt
from autosparse.cluster.job import Failure, Job, Stage, blocked, failure
from autosparse.cluster.progress import say
from autosparse.cluster.resources import DEFAULT_CPUS, Resources
from autosparse.errors import UserError
from autosparse.files import naming, read_record

Places = dict[Path, tuple[str, Path]]
"""Id and log of the job in the queue for the folder of each run."""


def run(stages: list[Stage], resources: Resources, root: Path) -> list[Failure]:
    """Submit the jobs that are not in the queue and, if asked to, wait for all; return those that failed.

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
    places: Places = {job.folder: place for job in jobs if (place := _queued(job, queue, root))}
    if places:
        say(f"{len(places)} of them in the queue already: {_arrays(places)}")
    # Jobs of complete runs are released, too: such a job may have lost its node just then, and the next array waits.
    submitted = [job_id for _, job_id, _ in submissions.recorded(root, "slurm")]
    if held := [job_id for job_id in submitted if job_id in queue and queue[job_id].held]:
        say(f"held, and released now: {' '.join(held)}")
        slurm.release(held)
    submissions.prune(root, "slurm", queue.__contains__)
    stale = _stale(stages, places, queue)
    places = {folder: place for folder, place in places.items() if folder not in stale}
    places |= _submit(stages, places, resources, root)
    slurm.cancel(dict.fromkeys(stale.values()))
    if not resources.wait:
        return []
    try:
        failures = wait([(job, *places[job.folder]) for job in jobs], stages[-1].name)
    except KeyboardInterrupt:
        say(f"the jobs stay in the queue; to end them: scancel {_arrays(places)}")
        raise
    failed_folders = {failed.job.folder for failed in failures}
    failed = {stage.name for stage in stages if {job.folder for job in stage.jobs} & failed_folders}
    blocks = {block.job.folder: block for stage in stages for block in blocked(stage, failed)}
    # A job that was cancelled before it started failed because of the stage before it.
    return [f if _has_run(f.job, places[f.job.folder][0]) else blocks.get(f.job.folder, f) for f in failures]


def show(stages: list[Stage], resources: Resources, root: Path) -> None:
    """Print the batch scripts that would be submitted, as if the queue were empty and its job ids began at 1."""
    ids, next_id = dict[str, list[str]](), 1
    for stage in stages:
        tasks, given = _attempts(stage.jobs, resources), _of_stage(stage, resources, ids)
        texts = batch.scripts(tasks, given, stage.name, submissions.next_folder(root, stage.name), next_id)
        ids[stage.name] = [str(next_id + number) for number in range(len(texts))]
        next_id += len(texts)
        print("\n".join(texts))


def wait(submitted: Sequence[tuple[Job, str, Path]], name: str) -> list[Failure]:
    """Wait until each job is complete or out of the queue; return the jobs that are not complete.

    A requeued job stays in the queue, so it is waited for. A job that was cancelled, or that died in whatever way, has
    left the queue. To be sure, it must be missing twice in a row. If another job works on its run by then, as two
    commands were given at once, that job is waited for.

    Args:
        submitted: jobs with their ids and the logs of their first processes.
        name: name of the progress bar.
    """
    left = {job.folder: (job, job_id) for job, job_id, _ in submitted}
    missing, running = set[Path](), set[Path]()
    start, silent = time.monotonic(), False
    with tqdm(total=len(left), desc=name, unit="run", disable=None) as bar:
        while True:
            queue = slurm.queue()
            if queue is None and not silent:
                say("squeue does not answer; still waiting")
            silent, lost = queue is None, set[Path]()
            if queue is not None:
                gone = {folder for folder, (_, job_id) in left.items() if job_id not in queue}
                gone -= {folder for folder in gone if _is_taken_over(*left[folder])}
                lost, missing = gone & missing, gone
            for folder in [folder for folder, (job, _) in left.items() if folder in lost or _is_complete(job)]:
                del left[folder]
                bar.update()
            if not left:
                break
            if queue is not None:
                running = _show_changes(left, queue, running, bar)
            time.sleep(min(20.0, 0.5 + (time.monotonic() - start) / 20))
    failures = [(failed, job_id) for job, job_id, log in submitted if (failed := failure(job, log))]
    ends = slurm.last_states() if failures else {}
    return [
        replace(failed, error=f"{failed.error}; Slurm: {ends[job_id].state}") if job_id in ends else failed
        for failed, job_id in failures
    ]


def _queued(job: Job, queue: dict[str, slurm.State], root: Path) -> tuple[str, Path] | None:
    """Return the id and log of the job in the queue that works on a run, if there is one.

    Raises:
        UserError: it was submitted with a different configuration.
    """
    path = job.folder / "job.json"
    if not path.is_file():
        return None
    record = read_record(path)
    if not record:  # It is damaged.
        for folder, job_id, run_folder in submissions.recorded(root, "slurm"):
            if run_folder == job.folder.resolve():
                record = {"job": job_id, "log": str(folder / f"{job_id}_0_log.err")}
                provenance.write_submission(job, job_id, record["log"])
                break
    if record.get("job") not in queue:
        return None
    if (config := record.get("config")) and (difference := provenance.config_difference(job, config)):
        raise UserError(f"{difference}; job {record['job']} works on it: autosparse runs cancel {job.folder}")
    return record["job"], Path(record["log"])


def _stale(stages: list[Stage], places: Places, queue: dict[str, slurm.State]) -> dict[Path, str]:
    """Return the pending jobs that depend on jobs of an earlier command alone, while their input is submitted again."""
    stale, again = dict[Path, str](), set[str]()
    for stage in stages:
        if again & set(stage.after):
            queued = {job.folder: places[job.folder][0] for job in stage.jobs if job.folder in places}
            stale |= {folder: job_id for folder, job_id in queued.items() if queue[job_id].state == "PENDING"}
        if any(job.folder not in places or job.folder in stale for job in stage.jobs):
            again.add(stage.name)
    return stale


def _submit(stages: list[Stage], queued: Places, resources: Resources, root: Path) -> Places:
    """Submit the jobs that are not queued, all of them or none; return the id and log of each."""
    places: Places = {}
    submitted = list[tuple[Path, list[Job], list[batch.Submitted]]]()
    ids = dict[str, list[str]]()  # ids of the arrays and jobs of each stage
    try:
        with contextlib.ExitStack() as folders:
            for stage in stages:
                ids[stage.name] = [queued[job.folder][0] for job in stage.jobs if job.folder in queued]
                new = [job for job in stage.jobs if job.folder not in queued]
                if not new:
                    continue
                folder = folders.enter_context(submissions.claimed(root, stage.name))
                given = _of_stage(stage, resources, ids)
                submitted.append((folder, new, batch.submit(_attempts(new, resources), given, stage.name, folder)))
                ids[stage.name] += slurm.arrays(handle.job_id for handle in submitted[-1][2])
            for folder, new, handles in submitted:
                jobs = list(zip(new, handles, strict=True))
                submissions.record(folder, "slurm", {handle.job_id: job.folder for job, handle in jobs})
                for job, handle in jobs:
                    provenance.write_submission(job, handle.job_id, str(handle.log))
                    with naming(job.folder / "batch.sh"):
                        shutil.copyfile(handle.script, job.folder / "batch.sh")
                    places[job.folder] = handle.job_id, handle.log
    except BaseException:
        slurm.cancel(handle.job_id for *_, handles in submitted for handle in handles)
        raise
    if places:
        say(f"submitted as {_arrays(places)}; see squeue --me")
    return places


def _of_stage(stage: Stage, resources: Resources, ids: dict[str, list[str]]) -> Resources:
    """Return the resources of a stage's jobs, with dependencies on the jobs `ids` of the stages before it."""
    heads = [job_id for name in stage.after for job_id in ids[name]]
    given = resources.single() if stage.single else resources
    return replace(given, after=tuple(dict.fromkeys((*resources.after, *heads))))


def _attempts(jobs: Iterable[Job], resources: Resources) -> list[Attempt]:
    return [Attempt(job, resources.cpus_per_task or DEFAULT_CPUS, resources.requeues) for job in jobs]


def _arrays(places: Places) -> str:
    return " ".join(slurm.arrays(job_id for job_id, _ in places.values()))


def _show_changes(
    left: dict[Path, tuple[Job, str]], queue: dict[str, slurm.State], running: set[Path], bar: tqdm
) -> set[Path]:
    """Report requeued jobs and the reasons of pending ones; return the folders of the runs that run."""
    states = {folder: queue[job_id] for folder, (_, job_id) in left.items() if job_id in queue}
    pending = {folder for folder, state in states.items() if state.state == "PENDING"}
    for folder in sorted(pending & running):
        say(f"queued again: {folder} ({left[folder][1]})")
    reasons = Counter(states[folder].reason for folder in pending)
    bar.set_postfix_str(", ".join(f"{count} pending: {reason}" for reason, count in reasons.items()))
    return states.keys() - pending


def _has_run(job: Job, job_id: str) -> bool:
    """Return True if this job of Slurm started the run."""
    return read_record(job.folder / "status.json").get("job") == job_id


def _is_taken_over(job: Job, job_id: str) -> bool:
    """Return True if another job works on the run."""
    holder = lease.holder_of(job.folder)
    return holder is not None and holder["job"] != job_id


def _is_complete(job: Job) -> bool:
    """Return True if the run is complete; its output is read only if `status.json` says so."""
    with contextlib.suppress(UserError):
        return read_record(job.folder / "status.json").get("state") == "complete" and job.is_complete()
    return False
