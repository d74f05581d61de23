"""Trackers: what a run tells TensorBoard, wandb and their like while it works, through Accelerate's classes for them.

RUN/tracking/
  tensorboard/   its event files; those that keep files write them here
  logged.json    the last step told of each kind: a run that goes on tells none of them again
"""

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from autosparse.config import Tracker
from autosparse.errors import UserError, unknown
from autosparse.files import read_record, write_record

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from autosparse.training.loop import Epoch

_PROJECT = "autosparse"
log = logging.getLogger(__name__)


def check_trackers(names: Sequence[str]) -> None:
    """Refuse what cannot track.

    Raises:
        UserError: an unknown tracker, one that is named twice, or one that is not installed.
    """
    for name in names:
        if name not in get_args(Tracker):
            raise unknown("tracker", name, get_args(Tracker))
        if names.count(name) > 1:
            raise UserError(f"the tracker {name} is named twice")
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name, as wandb leaves one, is no package
            raise UserError(f"the tracker {name} is not installed: pip install {name}")


class Tracking:
    """What trackers are told of one run, each step once; made by `tracking`."""

    def __init__(self, names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> None:
        self._names, self._folder, self._settings = names, folder, settings
        self._record = folder / "tracking" / "logged.json"
        self._logged: dict[str, int] = read_record(self._record) if names else {}
        self._trackers: dict[str, GeneralTracker] = {}
        self._started = False

    def log(self, kind: str, step: int, values: Mapping[str, float | None]) -> None:
        """Tell all trackers; None is left out. A step that was told already, before the run went on, is not again.

        Args:
            kind: of the values: those of a kind come in the order of their steps.
            step: epochs of training since the run began.
            values: by their names.
        """
        if not self._names or step <= self._logged.get(kind, -1):
            return
        if not self._started:
            self._start()
        known = {name: value for name, value in values.items() if value is not None}
        self._tell(lambda tracker: tracker.log(known, step=step))
        self._logged[kind] = step
        write_record(self._record, self._logged)

    def close(self) -> None:
        """Let the trackers write what they still hold."""
        self._tell(lambda tracker: tracker.finish())

    def _start(self) -> None:
        self._started = True
        for name in self._names:
            with self._leaving(name):
                tracker = self._trackers[name] = _make(name, self._folder)
                if name != "tensorboard" or not self._logged:  # which takes all attempts as one run
                    tracker.store_init_configuration(_flat(self._settings))

    def _tell(self, what: "Callable[[GeneralTracker], object]") -> None:
        for name, tracker in [*self._trackers.items()]:
            with self._leaving(name):
                what(tracker)

    @contextmanager
    def _leaving(self, name: str) -> Iterator[None]:
        """Leave a tracker behind that fails, as when its server is away; the work goes on."""
        try:
            yield
        except Exception as error:  # of any library
            log.warning("going on without the tracker %s: %s", name, error)
            self._trackers.pop(name, None)


@contextmanager
def tracking(names: Sequence[str], folder: Path, settings: Mapping[str, Any], main: bool) -> Iterator[Tracking]:
    """Track a run with these settings, in its folder; only its main process does."""
    tracked = Tracking(names if main else (), folder, settings)
    try:
        yield tracked
    finally:
        tracked.close()


def of_epoch(epoch: "Epoch", rate: float) -> dict[str, float | None]:
    """What trackers are told of an epoch of training that began at a learning rate."""
    metric, more = epoch["metric"], {f"test/{name}": value for name, value in epoch["more"].items()}
    return {
        "training/loss": epoch["loss"],
        "training/learning_rate": rate,
        f"validation/{metric}": epoch["validation"],
        f"test/{metric}": epoch["test"],
        **more,
    }


def _make(name: str, folder: Path) -> "GeneralTracker":
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    where = folder / "tracking"
    where.mkdir(parents=True, exist_ok=True)
    if name == "tensorboard":
        tracker = LOGGER_TYPE_TO_CLASS[name]("tensorboard", where)  # which is the name of a folder there
    elif name == "wandb":
        tracker = LOGGER_TYPE_TO_CLASS[name](_PROJECT, name=folder.name, dir=str(where))
    else:
        tracker = LOGGER_TYPE_TO_CLASS[name](_PROJECT, run_name=folder.name)
    tracker.start()
    return tracker


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, str | int | float | bool]:
    """Settings as trackers take them: nested ones by their path, lists as text; None is left out."""
    found: dict[str, str | int | float | bool] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        elif value is not None:
            found[f"{above}{name}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return found
