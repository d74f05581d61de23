"""Questions to Slurm: each is one command that answers for all jobs at once."""

import os
import re
import subprocess
from typing import NamedTuple


class State(NamedTuple):
    """What Slurm says of a job."""

    state: str
    """PENDING, RUNNING, COMPLETING ..."""
    reason: str
    """Why it is pending: Priority, Resources, Dependency ..."""

    @property
    def held(self) -> bool:
        """Whether it stays pending until it is released, as Slurm does with a job that a node could not start."""
        return self.state == "PENDING" and "held" in self.reason.lower()


def slurm_answers() -> bool:
    """Whether there is a Slurm to submit to."""
    return _ask("sinfo", "--noheader") is not None


def max_array_size() -> int | None:
    """How many jobs an array may have; None where Slurm does not say."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config") or "", re.MULTILINE)
    return int(match[1]) if match else None


def knows(job_id: str) -> bool:
    """Whether Slurm knows a job, ended or not; it forgets those that ended long ago."""
    return _ask("scontrol", "show", "job", job_id) is not None


def queue() -> dict[str, State] | None:
    """This user's jobs that have not ended, by their ids, each task of an array by itself; None if Slurm is silent.

    This, and not accounting, says whether a job has ended: a job that is requeued never leaves the queue, while
    accounting may be off, or call it NODE_FAIL or PREEMPTED for seconds.
    """
    return _parsed(_squeue())


def last_states() -> dict[str, State]:
    """The same as `queue`, with those that ended in the last minutes (the site's MinJobAge)."""
    return _parsed(_squeue("--states=all")) or {}


def cancel(job_ids: list[str]) -> None:
    """Take jobs out of the queue; those that have ended do not matter."""
    if job_ids:
        _ask("scancel", *job_ids)


def release(job_ids: list[str]) -> None:
    """Let jobs start that are held; what an administrator holds, Slurm goes on holding."""
    if job_ids:
        _ask("scontrol", "release", *job_ids)


def _squeue(*which: str) -> str | None:
    return _ask("squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T|%r", *which)


def _parsed(answer: str | None) -> dict[str, State] | None:
    if answer is None:
        return None
    rows = [line.split("|", 2) for line in answer.splitlines() if line.count("|") >= 2]
    return {job_id: State(state, reason) for job_id, state, reason in rows}


def _ask(*command: str) -> str | None:
    """What a command of Slurm prints; None if it fails, does not answer or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
