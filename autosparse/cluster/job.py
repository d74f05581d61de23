"""A job is one run in a folder of its own, which can be run again until it is complete; a graph has stages of jobs."""

import sysconfig
import traceback
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autosparse.errors import UserError, refused
from autosparse.files import read_record
from autosparse.options import option_values

if TYPE_CHECKING:
    from accelerate import Accelerator

_INSTALLED = (Path(__file__).parents[1], *map(Path, {*sysconfig.get_paths().values()}))
ERRORS = "logs/rank*.error.json"
SUBMITTED = "submitted"
"""Default folder of the files of Slurm and submitit, in the folder of all runs."""
OUTPUT_LOG = "logs/output.log"
"""Output of the processes of a run that were forked on this machine, or in a job of several runs."""


class Job(ABC):
    """One run, a dataclass. Running it again resumes it; running it when complete does nothing.

    Submitting must not import PyTorch, so imports that only `run` and `is_complete` need are inside them.
    """

    kind: ClassVar[str]
    """Name of the kind in `config.yaml`."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Folder of the run; its name describes the run."""

    def check(self) -> None:  # noqa: B027 - a job may have nothing to refuse
        """Refuse options that do not fit together by a `UserError`, before anything is submitted."""

    def missing(self) -> str | None:
        """Return which input does not exist yet, in one line; the methods below are called when none is missing."""
        return None

    def absent(self) -> str | None:
        """Return which data are missing on this machine, in one line.

        Only machines that run the job need them; without them, `identity` leaves out what depends on them.
        """
        return None

    def identity(self) -> dict[str, Any]:
        """Return what makes this run the run it is, which `config.yaml` holds, as values of YAML.

        The options that are not marked with `NO_IDENTITY`; subclasses add digests of inputs and the values
        that options resolve to.
        """
        return {"kind": self.kind, **option_values(self, identity=True)}

    def options(self) -> dict[str, Any]:
        """Return the options of the command line that ask for this run, which `config.yaml` holds, too."""
        return {}

    def sources(self) -> list[Path]:
        """Return the files of the user's that the run computes with; they are copied into its folder."""
        return []

    @classmethod
    def imports(cls) -> tuple[str, ...]:
        """Return the modules that a run imports; the server of forked runs imports them once."""
        # The first optimizer imports torch._dynamo.
        return cls.__module__, "autosparse.cluster.attempt", "torch._dynamo"

    @abstractmethod
    def is_complete(self) -> bool:
        """Return True if the output exists and is whole."""

    @abstractmethod
    def run(self, accelerator: "Accelerator") -> None:
        """Do the work, on every process of the job."""


@dataclass(frozen=True)
class Stage:
    """Jobs that do not depend on one another: one array on Slurm.

    Attributes:
        name: name of its jobs in the queue, unique in its graph.
        jobs: jobs of the stage.
        after: names of earlier stages that must have ended well before a job of this one starts.
        single: whether its jobs have no use for more than one process.
    """

    name: str
    jobs: tuple[Job, ...]
    after: tuple[str, ...] = ()
    single: bool = False


@dataclass(frozen=True)
class Failure:
    """A job that is not complete, and why."""

    job: Job
    error: str


def blocked(stage: Stage, failed: Collection[str]) -> list[Failure]:
    """Return the jobs of a stage as failures if a stage before it has failed."""
    heads = [name for name in stage.after if name in failed]
    return [Failure(job, f"not started, as {heads[0]} failed") for job in stage.jobs] if heads else []


def failure(job: Job) -> Failure | None:
    """Return why a job that has ended is not complete; None if it is."""
    try:
        if job.is_complete():
            return None
        error = error_of(job.folder)
    except UserError as damaged:
        error = describe(damaged)
    submission, own = read_record(job.folder / "job.json"), job.folder / OUTPUT_LOG
    shared = submission.get("runs", 1) > 1 and own.is_file()
    log = own if shared else Path(submission.get("log") or own)
    if error is None:
        status = job.folder / "status.json"
        # A machine that lost power may leave an empty file.
        state = read_record(status).get("state", "running") if status.is_file() else None
        error = "it was not started" if state is None else "it was killed" if state == "running" else f"it is {state}"
        error += f": {missing}" if state is None and (missing := job.missing()) else ""
        if log.is_file():  # Slurm or the shell says why.
            lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
            error += f" ({lines[-1]})" if lines else ""
    return Failure(job, f"{error}; log: {log}")


def error_of(folder: Path) -> str | None:
    """Return the error or signal that ended the last attempt at a run, as its folder records it.

    Of several processes, one that failed by itself comes before those that lost the others.
    """
    errors = [record for path in sorted(folder.glob(ERRORS)) if "error" in (record := read_record(path))]
    if errors:
        return str(min(errors, key=lambda record: not record.get("user"))["error"])
    status = read_record(folder / "status.json")  # A full disk may have had no room for more.
    return str(status["why"]) if status.get("state") in ("failed", "interrupted") and "why" in status else None


def describe(error: BaseException) -> str:
    """Return an error in one line, with its place if that is in a file of the user's: ` (mine.py, line 40)`."""
    if isinstance(error, OSError) and error.strerror and error.filename:  # a full disk, a folder without permission
        return refused(error)
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    theirs = [
        (path, line)
        for path, line in frames
        if path.is_file() and not any(path.is_relative_to(folder) for folder in _INSTALLED)
    ]
    place = f" ({theirs[-1][0].name}, line {theirs[-1][1]})" if theirs else ""
    return f"{type(error).__name__}: {text}{place}"
