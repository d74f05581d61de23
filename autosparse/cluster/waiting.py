"""Waiting for jobs of Slurm by what their runs' folders and the queue say."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from autosparse.cluster import lease, outcome, slurm
from autosparse.cluster.job import Job
from autosparse.cluster.outcome import Failure, say
from autosparse.errors import UserError
from autosparse.files import read_record


def wait(submitted: Sequence[tuple[Job, str, Path]], name: str) -> list[Failure]:
    """Wait until each job is complete or out of the queue; returns those that are not complete.

    A job that is requeued stays in the queue, so it is waited for, and it is said. One that was cancelled, or that died
    in whatever way, has left it. To be sure, it must be missing twice in a row. Where another job works on its run by
    then, as two commands were given at once, that one is waited for.

    Args:
        submitted: jobs, their ids, and the logs of their first processes.
        name: shown while they run.
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
                absent = {folder: run for folder, run in left.items() if run[1] not in queue}
                gone = {folder for folder, run in absent.items() if not _elsewhere(*run)}
                lost, missing = gone & missing, gone
            for folder in [folder for folder, (job, _) in left.items() if folder in lost or _complete(job)]:
                del left[folder]
                bar.update()
            if not left:
                break
            if queue is not None:
                running = _tell(left, queue, running, bar)
            time.sleep(min(20.0, 0.5 + (time.monotonic() - start) / 20))
    failures = outcome.failures([(job, log) for job, _, log in submitted])
    ends = slurm.last_states() if failures else {}
    ids = {job.folder: job_id for job, job_id, _ in submitted}
    return [Failure(each.job, _with_end(each.error, ids[each.job.folder], ends)) for each in failures]


def _tell(left: dict[Path, tuple[Job, str]], queue: dict[str, slurm.State], running: set[Path], bar: tqdm) -> set[Path]:
    """Say what has changed; returns the folders of the runs that run."""
    states = {folder: queue[job_id] for folder, (_, job_id) in left.items() if job_id in queue}
    waiting = {folder for folder, state in states.items() if state.state == "PENDING"}
    for folder in sorted(waiting & running):
        say(f"queued again: {folder} ({left[folder][1]})")
    reasons = Counter(states[folder].reason for folder in waiting)
    bar.set_postfix_str(", ".join(f"{count} pending: {reason}" for reason, count in reasons.items()))
    return states.keys() - waiting


def _elsewhere(job: Job, job_id: str) -> bool:
    """Whether another job works on the run."""
    holder = lease.holder_of(job.folder)
    return holder is not None and holder["job"] != job_id


def _complete(job: Job) -> bool:
    """Whether the run is complete, asked for its output only if it says so itself."""
    with suppress(UserError):
        return read_record(job.folder / "status.json").get("state") == "complete" and job.is_complete()
    return False


def _with_end(error: str, job_id: str, ends: dict[str, slurm.State]) -> str:
    """An error, and how Slurm says that the job ended."""
    return f"{error}; Slurm: {ends[job_id].state}" if job_id in ends else error
