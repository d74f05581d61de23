"""A job: one run, with a folder of its own, that can be run again until it is complete."""

import sysconfig
import traceback
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autosparse.errors import UserError, refused
from autosparse.files import read_record
from autosparse.options import option_values

if TYPE_CHECKING:
    from accelerate import Accelerator

_NOT_THEIRS = (Path(__file__).parents[1], *map(Path, {*sysconfig.get_paths().values()}))
ERRORS = "logs/rank*.error.json"


class Job(ABC):
    """One run, a dataclass. Running it again resumes it; running it when complete does nothing.

    Submitting must not import PyTorch, so imports that only `run` and `is_complete` need are inside them.
    """

    kind: ClassVar[str]
    """What the configuration calls it."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The run's folder; its name says what the run is."""

    def check(self) -> None:  # noqa: B027 - a job may have nothing to refuse
        """Refuse what cannot run, before anything is submitted.

        Raises:
            UserError: what is wrong.
        """

    def missing(self) -> str | None:
        """Which input is not there yet, in one line; the methods below are called when none is missing."""
        return None

    def absent(self) -> str | None:
        """Which data are missing on this machine, in one line.

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
        """The options of the command line that ask for this very run, which `config.yaml` says, too."""
        return {}

    def sources(self) -> list[Path]:
        """Files of the user's that the run computes with; copied into its folder."""
        return []

    @abstractmethod
    def is_complete(self) -> bool:
        """Whether the output is there and whole."""

    @abstractmethod
    def run(self, accelerator: "Accelerator") -> None:
        """Do the work, on every process of the job."""


def describe(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:  # a full disk, a folder that may not be read
        return refused(error)
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}{_place(error)}"


def _place(error: BaseException) -> str:
    """Where in the user's own files an error comes from, if it does: ` (mine.py, line 40)`."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(Path(frame.filename).is_relative_to(place) for place in _NOT_THEIRS)
        and Path(frame.filename).is_file()
    ]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def failure(job: Job) -> str | None:
    """What the job's last attempt says went wrong, if it did.

    Of several processes, one that failed by itself rather than by losing the others.
    """
    try:
        if job.is_complete():
            return None
    except UserError as damaged:
        return describe(damaged)
    if said := why(job.folder):
        return said
    status = job.folder / "status.json"
    if not status.is_file():
        return "it was not started"
    state = read_record(status).get("state", "running")  # a machine that lost power may leave an empty file
    return "it was killed" if state == "running" else f"it is {state}"


def why(folder: Path) -> str | None:
    """What the last attempt in a run's folder says of its failure or interruption."""
    errors = [found for path in sorted(folder.glob(ERRORS)) if "error" in (found := read_record(path))]
    for error in sorted(errors, key=lambda error: not error.get("user")):
        return str(error["error"])
    said = read_record(folder / "status.json")  # alone, where a full disk had no room for more
    return str(said["why"]) if said.get("state") in ("failed", "interrupted") and "why" in said else None
