"""Where jobs run and what each is given."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any, Literal

import torch

from autosparse.errors import UserError

Cluster = Literal["slurm", "local", "inline"]


@dataclass(frozen=True)
class Resources:
    """Where the jobs run."""

    cluster: Literal["auto", "slurm", "local", "inline"] = "auto"
    """slurm: a job array; local: processes of this machine; inline: in this process, one after the other;
    auto: slurm where sinfo answers, else inline."""
    partition: str | None = None
    """Slurm partition."""
    account: str | None = None
    """Slurm account to charge."""
    qos: str | None = None
    """Slurm quality of service."""
    nodes: int = 1
    """Nodes of each job."""
    gpus_per_node: int | None = None
    """GPUs of each job on each node, and one process for each; 1 if not given, 0 for CPU nodes."""
    tasks_per_node: int | None = None
    """Processes of each job on each node, for jobs without GPUs; 1 if not given."""
    cpus_per_task: int | None = None
    """CPU cores of each process; on Slurm 4 if not given, here the machine's, shared out."""
    mem: str | None = None
    """Memory of each node, such as 32GB; the site's default if not given."""
    time: str = "4:00:00"
    """Time limit of each job, not inline: minutes, H:MM:SS or D-HH:MM:SS."""
    array_parallelism: int | None = None
    """How many jobs run at once; on Slurm 256 if not given, with --cluster local 1."""
    dry_run: bool = False
    """Print the jobs, and the batch script for Slurm; run nothing."""

    def __post_init__(self) -> None:
        for name in ("nodes", "tasks_per_node", "cpus_per_task", "array_parallelism"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise UserError("one process runs on each GPU: --tasks-per-node is for jobs with --gpus-per-node 0")
        if self.gpus_per_node is not None and self.gpus_per_node < 0:
            raise UserError(f"--gpus-per-node must not be negative, got {self.gpus_per_node}")
        minutes(self.time)

    def resolve(self) -> Cluster:
        """Which cluster `auto` means here.

        Raises:
            UserError: Slurm is asked for, by name or by one of its flags, and does not answer.
        """
        if self.cluster in ("local", "inline"):
            return self._refusing_what_is_ignored(self.cluster)
        flags = [f"--{name}" for name in ("partition", "account", "qos") if getattr(self, name)]
        asked = self.cluster == "slurm" or bool(flags) or self.nodes > 1
        if (asked and self.dry_run) or slurm_answers():
            return "slurm"
        if asked:
            raise UserError(
                f"no Slurm here (sinfo does not answer), which {' '.join(flags) or '--cluster slurm'} needs; "
                "run this on a login node, or with --cluster local or inline and without Slurm's flags"
            )
        return self._refusing_what_is_ignored("inline")

    def _refusing_what_is_ignored(self, cluster: Literal["local", "inline"]) -> Cluster:
        if self.nodes > 1:
            raise UserError(f"--nodes {self.nodes} needs --cluster slurm; {cluster} has one")
        ignored = ["partition", "account", "qos", "mem"]
        if cluster == "inline":
            ignored += ["gpus_per_node", "tasks_per_node", "array_parallelism"]
        for name in ignored:
            if getattr(self, name) is not None:
                needed = "slurm" if name in ignored[:4] else "local or slurm"
                raise UserError(f"--{name.replace('_', '-')} does nothing with --cluster {cluster}; it needs {needed}")
        return cluster

    @property
    def tasks(self) -> int:
        """Processes of a job on each node: one a GPU, or as asked for."""
        return self.gpus_per_node or self.tasks_per_node or 1

    def _gpus(self, default: int) -> int:
        """GPUs of a job on each node; none where processes are asked for instead."""
        if self.gpus_per_node is None:
            return 0 if self.tasks_per_node else default
        return self.gpus_per_node

    def slurm_parameters(self, name: str) -> dict[str, Any]:
        """For submitit's Slurm executor."""
        gpus = self._gpus(1)
        cpus = self.cpus_per_task or 4
        parameters = {
            "job_name": name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks,
            "gpus_per_node": gpus or None,
            "cpus_per_task": cpus,
            "mem": self.mem,
            "time": minutes(self.time),
            "array_parallelism": self.array_parallelism or 256,
            # srun does not inherit --cpus-per-task since Slurm 22.05; one dead rank must not leave the others waiting
            "srun_args": [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1"],
            "signal_delay_s": min(90, 30 * minutes(self.time)),
        }
        # submitit sends a wckey of its own, which sites that do not track them refuse
        return {key: value for key, value in parameters.items() if value is not None} | {"wckey": None}

    def local_parameters(self) -> dict[str, Any]:
        """For submitit's local executor."""
        gpus = self._gpus(min(1, torch.cuda.device_count()))
        if gpus > torch.cuda.device_count():
            raise UserError(f"--gpus-per-node {gpus}: this machine has {torch.cuda.device_count()}")
        return {"timeout_min": minutes(self.time), "gpus_per_node": gpus, "tasks_per_node": self.tasks}

    def local_cpus(self, jobs: int = 1) -> int:
        """CPU cores of a process when `jobs` jobs run on this machine at once."""
        return self.cpus_per_task or max(1, len(os.sched_getaffinity(0)) // (jobs * self.tasks))


def minutes(time: str) -> int:
    """Whole minutes of a time limit: `90`, `1:30:00` or `1-12:00:00`.

    Raises:
        UserError: another form, or less than a minute.
    """
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):(\d\d):(\d\d))|(\d+)", time)
    if not match:
        raise UserError(f"--time {time!r} is neither minutes nor H:MM:SS nor D-HH:MM:SS")
    days, hours, mins, seconds, plain = (int(group or 0) for group in match.groups())
    total = plain or (days * 24 + hours) * 60 + mins + (seconds > 0)
    if total < 1:
        raise UserError(f"--time {time} is less than a minute")
    return total


def slurm_answers() -> bool:
    """Whether there is a Slurm to submit to."""
    if shutil.which("sinfo") is None:
        return False
    try:
        return subprocess.run(["sinfo", "--noheader"], capture_output=True, timeout=20).returncode == 0
    except subprocess.TimeoutExpired:
        return False
