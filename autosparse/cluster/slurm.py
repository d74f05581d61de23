"""Questions to Slurm: each is one command that answers for all jobs at once."""

import os
import re
import subprocess
from collections.abc import Iterable
from typing import NamedTuple

_NEVER = re.compile(r"Partition(Config|TimeLimit|NodeLimit)|BadConstraints|Invalid(Account|QOS)|.*PerJob(Limit)?")
"""Reasons for which a job stays pending forever."""


class State(NamedTuple):
    """State of a job in the queue."""

    state: str
    """PENDING, RUNNING, COMPLETING ..."""
    reason: str
    """Reason why it is pending: Priority, Resources, Dependency ..."""

    @property
    def held(self) -> bool:
        """Whether it stays pending until it is released, as Slurm does with a job that a node could not start."""
        return self.state == "PENDING" and "held" in self.reason.lower()

    @property
    def never(self) -> bool:
        """Whether it stays pending forever, as the site allows no such job, or lost the node that it asked for."""
        return self.state == "PENDING" and _NEVER.fullmatch(self.reason) is not None


def slurm_answers() -> bool:
    """Return True if a Slurm takes submissions."""
    return _ask("sinfo", "--noheader") is not None


def max_array_size() -> int | None:
    """Return how many jobs an array may have; None where Slurm does not say."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config") or "", re.MULTILINE)
    return int(match[1]) if match else None


def knows(job_id: str) -> bool:
    """Return True if Slurm knows a job, ended or not; it forgets jobs that ended long ago."""
    return _ask("scontrol", "show", "job", job_id) is not None


def queue(*options: str) -> dict[str, State] | None:
    """Return this user's jobs that have not ended, by their ids, tasks of an array apart; None if Slurm is silent.

    The queue, not accounting, says whether a job has ended: a requeued job never leaves the queue, while accounting may
    be off, or call the job NODE_FAIL or PREEMPTED for seconds.
    """
    answer = _ask("squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T|%r", *options)
    if answer is None:
        return None
    rows = [line.split("|", 2) for line in answer.splitlines() if line.count("|") >= 2]
    return {job_id: State(state, reason) for job_id, state, reason in rows}


def last_states() -> dict[str, State]:
    """Return the jobs of `queue` and those that ended in the last minutes (the site's MinJobAge)."""
    return queue("--states=all") or {}


def cancel(job_ids: Iterable[str]) -> None:
    """Take jobs out of the queue; jobs that have ended do not matter."""
    if ids := [*job_ids]:
        _ask("scancel", *ids)


def release(job_ids: Iterable[str]) -> None:
    """Let held jobs start; jobs that an administrator holds stay held."""
    if ids := [*job_ids]:
        _ask("scontrol", "release", *ids)


def requeue(job_id: str) -> str | None:
    """Have a running job queued again, but not one that is being canceled; return why not if Slurm refuses."""
    state = _ask("squeue", "--noheader", "--jobs", job_id, "--format=%T")
    if state is None:
        return "squeue does not answer"
    if state.strip() != "RUNNING":
        return None
    try:
        done = subprocess.run(["scontrol", "requeue", job_id], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip() or "scontrol requeue fails" if done.returncode else None


def arrays(job_ids: Iterable[str]) -> list[str]:
    """Return the ids of the arrays, or plain jobs, that jobs belong to, each once."""
    return list(dict.fromkeys(job_id.split("_")[0] for job_id in job_ids))


def _ask(*command: str) -> str | None:
    """Return the output of a command; None if it fails, times out or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
