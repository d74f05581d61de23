"""Handing a Slurm job back to the queue, to go on where it has stopped."""

import os
import subprocess
import time

from autosparse.errors import UserError

_UNTIL_KILLED = 300  # seconds


def requeues() -> int:
    """How often this job was queued again, by itself or by Slurm."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def requeue(most: int, main: bool) -> None:
    """Have Slurm end this job and start it again; called by all of its processes, and does not return.

    Not where the job was cancelled, which sends the same signal as a preemption: its state tells them apart.

    Args:
        most: how often a job may be requeued.
        main: whether this process is the one that asks Slurm.

    Raises:
        UserError: it was requeued as often as it may be, or Slurm refuses.
    """
    job = os.environ["SLURM_JOB_ID"]
    if main:
        if requeues() >= most:
            raise UserError(f"stopped by Slurm after {requeues()} requeues (max-requeues); the same command goes on")
        if _ask("squeue", "--noheader", "--jobs", job, "--format", "%T") == "RUNNING":
            _ask("scontrol", "requeue", job)
    time.sleep(_UNTIL_KILLED)  # a process that ends by itself would have the job count as ended
    raise UserError("stopped by Slurm, but not requeued; the same command goes on")


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        said = " ".join(str(getattr(error, "stderr", "") or error).split())
        raise UserError(f"stopped by Slurm, which refuses to requeue ({said}); the same command goes on") from None
