"""Resources of jobs, from the command line and the site's profile."""

import os
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from autosparse.cluster.slurm import slurm_answers
from autosparse.config import Bounds, Config
from autosparse.errors import UserError
from autosparse.options import OptionsFile, option_types

Cluster = Literal["slurm", "local", "inline"]

DEFAULT_TIME = "4:00:00"
DEFAULT_CPUS = 4
DEFAULT_PARALLELISM = 256
DEFAULT_REQUEUES = 10

_PER_COMMAND = ("after", "wait", "dry_run")
"""Options that a profile cannot set."""
_SLURM_ONLY = (
    *("partition", "account", "qos", "nodes", "mem", "constraint", "exclude", "array_parallelism", "runs_per_job"),
    *("max_requeues", "after", "setup", "slurm", "log_dir"),
)
_NOT_INLINE = ("gpus_per_node", "tasks_per_node", "time", "runs_at_once", "runs_per_gpu")
_REQUEST = (
    *("partition", "account", "qos", "nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "mem", "time"),
    *("constraint", "exclude", "after", "slurm"),
)
_SET_BY_SUBMISSION = (
    *("ntasks", "ntasks-per-node", "dependency", "array", "requeue", "no-requeue", "output", "error"),
    *("open-mode", "signal", "kill-on-invalid-dep", "wckey"),
)
"""Options of sbatch that are set by the submission or by an option of another name."""

_NO_GPU = "runs-per-gpu: there is no GPU to share; runs-at-once is for cores"


@dataclass(frozen=True, kw_only=True)
class Where(Config):
    """Where the jobs run; --help-cluster lists all options of the cluster."""

    cluster: Literal["auto", "slurm", "local", "inline"] = "auto"
    """slurm: a job array; local: processes of this machine; inline: in this process, one after the other; auto: slurm
    where sinfo answers, else inline."""
    partition: str | None = None
    """Partition of Slurm. Default: the site's."""
    dry_run: bool = False
    """Print the jobs, and the batch script for Slurm; run nothing."""


@dataclass(frozen=True, kw_only=True)
class Resources(Where):
    """Cluster and resources of the jobs. A site's profile sets the defaults: see slurm/README.md."""

    gpus_per_node: Annotated[int | None, Bounds(0)] = None
    """GPUs of each job on each node, with one process for each; 0 for CPU nodes. Default: 1."""
    tasks_per_node: Annotated[int | None, Bounds(1)] = None
    """Processes of each job on each node, for jobs without GPUs. Default: 1."""
    cpus_per_task: Annotated[int | None, Bounds(1)] = None
    """CPU cores of each process, or of a job of several runs. Default: 4 on Slurm; else the cores of the machine,
    divided among the runs. $OMP_NUM_THREADS, where it is set, is the number of threads."""
    nodes: Annotated[int | None, Bounds(1)] = None
    """Nodes of each job. Default: 1."""
    mem: str | None = None
    """Memory of each node, such as 32GB. Default: the site's."""
    time: str | None = None
    """Time limit of each job: minutes, H:MM:SS or D-HH:MM:SS. Default: 4:00:00 on Slurm, none on this machine."""
    account: str | None = None
    """Account of Slurm to charge. Default: your own."""
    qos: str | None = None
    """Quality of service of Slurm. Default: the site's."""
    constraint: str | None = None
    """Features that the nodes must have, such as a100."""
    exclude: str | None = None
    """Nodes not to use, such as gpu[3-4]."""
    array_parallelism: Annotated[int | None, Bounds(1)] = None
    """Number of jobs of an array that run at once. Default: 256."""
    runs_per_job: Annotated[int, Bounds(1)] = 1
    """Runs in each job: many short runs take few jobs of Slurm. Each run has one process."""
    runs_at_once: Annotated[int | None, Bounds(1)] = None
    """Runs side by side, on this machine or in a job of several. Default: as its GPUs, or else its cores, allow."""
    runs_per_gpu: Annotated[int | None, Bounds(1)] = None
    """Runs that share a GPU, on this machine or in a job of several; small networks leave a GPU idle. Default: 1."""
    max_requeues: Annotated[int | None, Bounds(0)] = None
    """How often a job that was stopped (time limit, preemption, lost node) is queued again. Default: 10."""
    after: Annotated[tuple[str, ...], tyro.conf.arg(metavar="JOBID...")] = ()
    """Start only when these jobs have ended well."""
    setup: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CMD...")] = ()
    """Shell commands to run in the job first, such as "module load cuda"; a job whose set-up fails is not started."""
    slurm: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE...")] = ()
    """Further options of sbatch, such as mail-type=END or exclusive."""
    log_dir: Path | None = None
    """Folder of the files of Slurm and submitit, visible on all nodes. Default: OUTPUT/submitted."""
    wait: bool = False
    """Return only when all jobs have ended; the exit code says whether all are complete."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise UserError("one process runs on each GPU: tasks per node are for jobs with 0 GPUs per node")
        if self.runs_per_job > 1 and (self.tasks_per_node or 1) * (self.nodes or 1) > 1:
            raise UserError("in a job of several runs each run has one process: leave out tasks-per-node and nodes")
        if self.runs_per_gpu and not self.gpus(1):
            raise UserError(_NO_GPU)
        for job in self.after:
            if not re.fullmatch(r"\d+(_\d+)?", job):
                raise UserError(f"after takes job ids of Slurm, such as 4242 or 4242_3, got {job!r}")
        for option in fields(self):  # A batch script has one option per line.
            value = getattr(self, option.name)
            if isinstance(value, str | Path) and not str(value).isprintable():
                raise UserError(f"{spelled(option.name)} takes one line of text, got {str(value)!r}")
        _ = self.minutes, self.slurm_options

    @property
    def minutes(self) -> int:
        """Time limit in whole minutes."""
        return minutes(DEFAULT_TIME if self.time is None else self.time)

    @property
    def slurm_options(self) -> dict[str, str | bool]:
        """Further options of sbatch; True for an option without a value."""
        options: dict[str, str | bool] = {}
        names = {spelled(option.name) for option in fields(self)}
        for text in self.slurm:
            key, equals, value = text.lstrip("-").partition("=")
            if not re.fullmatch(r"[a-z][a-z-]*", key) or not text.isprintable():
                raise UserError(f"slurm takes options of sbatch as KEY=VALUE, got {text!r}")
            if key in names or key in _SET_BY_SUBMISSION:
                raise UserError(f"slurm {text}: {key} is set by an option of --help-cluster or by the submission")
            options[key] = value if equals else True
        return options

    @property
    def request(self) -> str:
        """Options that decide which nodes Slurm allocates, with their values, in one line."""
        used = {"gpus_per_node": self.gpus(1) or None, "cpus_per_task": DEFAULT_CPUS, "time": DEFAULT_TIME}
        values = {name: getattr(self, name) or used.get(name) for name in _REQUEST}
        return ", ".join(
            f"{spelled(name)} {' '.join(value) if isinstance(value, tuple) else value}"
            for name, value in values.items()
            if value
        )

    @property
    def tasks(self) -> int:
        """Number of processes of a job on each node: one per GPU, or as asked for; one in a job of several runs."""
        return 1 if self.runs_per_job > 1 else self.gpus_per_node or self.tasks_per_node or 1

    @property
    def requeues(self) -> int:
        """How often a job is queued again."""
        return DEFAULT_REQUEUES if self.max_requeues is None else self.max_requeues

    def gpus(self, default: int) -> int:
        """Return the number of GPUs of a job on each node; 0 where processes are asked for instead."""
        if self.gpus_per_node is None:
            return 0 if self.tasks_per_node else default
        return self.gpus_per_node

    def single(self) -> "Resources":
        """Return the resources of a job with one process."""
        gpus = None if self.gpus_per_node is None else min(1, self.gpus_per_node)
        return replace(self, nodes=None, gpus_per_node=gpus, tasks_per_node=self.tasks_per_node and 1)

    def resolve(self, alone: Cluster = "inline") -> "Resources":
        """Replace `auto` by Slurm, or `alone` where there is none; for Slurm add options from the site's profile.

        Slurm that is asked for, by name or by one of its options, must answer. An option without effect is an error.
        """
        given = {each.name for each in fields(self) if getattr(self, each.name) != each.default}
        site = Resources() if self.cluster in ("local", "inline") else site_profile()
        cluster = site.cluster if self.cluster == "auto" else self.cluster
        if cluster in ("auto", "slurm"):
            asked = [spelled(name) for name in _SLURM_ONLY if name in given]
            asked += ["the cluster slurm"] * (cluster == "slurm")
            if (asked and self.dry_run) or slurm_answers():
                for name in ("runs_at_once", "runs_per_gpu"):
                    if name in given and max(self.runs_per_job, site.runs_per_job) == 1:
                        raise UserError(f"{spelled(name)} is for jobs of several runs; give runs-per-job, too")
                own = {name: getattr(self, name) for name in given}
                return replace(site, **{**own, "cluster": "slurm"})
            if asked:
                raise UserError(
                    f"no Slurm here (sinfo does not answer), which {' '.join(asked)} needs; "
                    "run this on a login node, or with the cluster local or inline and without Slurm's options"
                )
            cluster = alone
        for name in _SLURM_ONLY + (_NOT_INLINE if cluster == "inline" else ()):
            if name in given:
                needed = "slurm" if name in _SLURM_ONLY else "local or slurm"
                raise UserError(f"{spelled(name)} does nothing with the cluster {cluster}; it needs {needed}")
        return replace(self, cluster=cluster)

    def of_each_run(self) -> "Resources":
        """Return the resources of each run in a job of several."""
        cpus = self.cpus_per_task or DEFAULT_CPUS
        at_once = self.runs_at_once or (self.gpus(1) * (self.runs_per_gpu or 1) or cpus)
        gpus, threads = min(1, self.gpus(1)), max(1, cpus // at_once)
        return replace(self, runs_per_job=1, runs_at_once=at_once, gpus_per_node=gpus, cpus_per_task=threads)

    def side_by_side(self) -> int:
        """Return how many runs this machine runs at once."""
        if self.runs_at_once:
            return self.runs_at_once
        if gpus := self.local_gpus():
            return max(1, count_gpus() // gpus) * (self.runs_per_gpu or 1)
        return max(1, _cores() // ((self.cpus_per_task or 1) * self.tasks))

    def threads(self, at_once: int) -> int:
        """Return the number of threads of a process when `at_once` runs work on this machine at once."""
        return self.cpus_per_task or max(1, _cores() // (at_once * self.tasks))

    def local_gpus(self) -> int:
        """Return the number of GPUs of a job on this machine; raise if it has fewer, or none to share."""
        count = count_gpus()
        gpus = self.gpus(min(1, count))
        if self.runs_per_gpu and not gpus:
            raise UserError(_NO_GPU)
        if gpus > count:
            raise UserError(f"gpus-per-node {gpus}: this machine has {count}")
        return gpus


def count_gpus() -> int:
    """Return the number of GPUs that this process may use."""
    import torch  # Submitting must not import it.

    return torch.cuda.device_count()


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def spelled(name: str) -> str:
    """Return the name of a field as profiles and the command line spell it."""
    return name.replace("_", "-")


def minutes(time: str) -> int:
    """Return the whole minutes of a time limit, rounded up: `90`, `1:30:00` or `1-12:00:00`; raise on other forms."""
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):(\d\d):(\d\d))|(\d+)", time)
    if not match:
        raise UserError(f"time {time!r} is neither minutes nor H:MM:SS nor D-HH:MM:SS")
    days, hours, mins, seconds, plain = (int(group or 0) for group in match.groups())
    total = plain or (days * 24 + hours) * 60 + mins + (seconds > 0)
    if total < 1:
        raise UserError(f"time {time} is less than a minute")
    return total


def site_profile() -> Resources:
    """Return the options of the site's profile, a YAML file of options and values, such as `partition: gpu`.

    $AUTOSPARSE_SLURM is its path; empty for no profile. Default: ~/.config/autosparse/slurm.yaml, if it exists.
    """
    usual = Path.home() / ".config" / "autosparse" / "slurm.yaml"
    name = os.environ.get("AUTOSPARSE_SLURM", str(usual) if usual.is_file() else "")
    if not name:
        return Resources()
    file = OptionsFile.read(Path(name).expanduser())
    types = {name: hint for name, hint in option_types(Resources).items() if name.replace("-", "_") not in _PER_COMMAND}
    file.check({*types})
    defaults = {spelled(option.name): option.default for option in fields(Resources)}
    values = {name: file.value(name, hint, defaults[name]) for name, hint in types.items()}
    try:
        site = Resources(**{name.replace("-", "_"): value for name, value in values.items()})
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from None
    return replace(site, log_dir=site.log_dir and site.log_dir.expanduser())
