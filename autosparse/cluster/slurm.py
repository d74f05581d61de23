"""Questions to Slurm: each is one command that answers for all jobs at once."""

import os
import re
import shutil
import subprocess
from typing import NamedTuple

from autosparse.cluster import sharing

_DECIDE = ("SLURM_CONF", "SLURM_CLUSTERS", "SQUEUE_")  # variables by which squeue answers otherwise


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


def partitions() -> list[str]:
    """The partitions' names."""
    return sorted(set((_ask("sinfo", "--noheader", "--all", "--format=%R") or "").split()))


def node_names() -> list[str]:
    """The nodes' names, as Slurm folds them: gpu[1-4]."""
    return (_ask("sinfo", "--noheader", "--all", "--format=%N") or "").split()


def hardware(partition: str | None) -> list[str]:
    """What the nodes of a partition, or of the default one, have, a text for each kind of node."""
    said = []
    for name, nodes, count, cpus, memory, gres, features in _partition(partition, "%R|%N|%D|%c|%m|%G|%f"):
        more = [f"gres {gres}"] * (gres != "(null)") + [f"features {features}"] * (features != "(null)")
        each = ", ".join([f"{cpus} CPUs", f"{memory} MB", *more])
        said.append(f"partition {name} has {count} x {nodes}, each with {each}")
    return said


def time_limits(partition: str | None) -> list[str]:
    """The time limit of a partition, or of the default one."""
    return [f"partition {name} has a limit of {limit}" for name, limit in _partition(partition, "%R|%l")]


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


def watched_queue() -> dict[str, State] | None:
    """The same for those who ask again and again: one question in some seconds, however many of them there are."""
    program = shutil.which("squeue")
    if program is None:
        return None
    own = sorted((name, value) for name, value in os.environ.items() if name.startswith(_DECIDE))
    return _parsed(sharing.shared(_squeue, f"{program} {own}"))


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


def _partition(name: str | None, columns: str) -> list[list[str]]:
    """Rows of sinfo about a partition, or the default one, which it marks with a star."""
    answer = _ask("sinfo", "--noheader", "--all", f"--format=%P|{columns}") or ""
    rows = [line.split("|") for line in answer.splitlines() if line.count("|") == columns.count("|") + 1]
    return [row[1:] for row in rows if (row[1] == name if name else row[0].endswith("*"))]


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
