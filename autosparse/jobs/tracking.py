"""Trackers: TensorBoard, wandb and mlflow, through Accelerate's classes for them.

RUN/tracking/
  tensorboard/   event files of TensorBoard; other trackers that keep files write them next to it
  logged.json    the last step of each kind that was logged; a run that resumes logs none of them again
"""

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosparse.errors import UserError
from autosparse.files import read_record, write_record

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from autosparse.training.loop import Epoch

_PROJECT = "autosparse"
log = logging.getLogger(__name__)


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are named twice or not installed."""
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"the tracker {name} is named twice")
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # A folder of that name, as wandb leaves one, is not a package.
            raise UserError(f"the tracker {name} is not installed: pip install {name}")


class Tracking:
    """Trackers of one run, which log each step once.

    Args:
        names: names of the trackers.
        folder: the run's folder.
        identity: the run's identity, which trackers show.
        main: whether this is the main process; the others track nothing.
    """

    def __init__(self, names: Sequence[str], folder: Path, identity: Mapping[str, Any], main: bool) -> None:
        names = names if main else ()
        self._record = folder / "tracking" / "logged.json"
        self._logged: dict[str, int] = read_record(self._record) if names else {}
        self._trackers: dict[str, GeneralTracker] = {}
        for name in names:
            self._attempt(name, partial(self._start, name, folder, identity))

    def log(self, kind: str, step: int, values: Mapping[str, float | None]) -> None:
        """Log values other than None with all trackers, unless this step of this kind was logged before."""
        if not self._trackers or step <= self._logged.get(kind, -1):
            return
        known = {name: value for name, value in values.items() if value is not None}
        for name, tracker in [*self._trackers.items()]:
            self._attempt(name, partial(tracker.log, known, step=step))
        self._logged[kind] = step
        write_record(self._record, self._logged)

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(self, *error: object) -> None:
        for name, tracker in [*self._trackers.items()]:
            self._attempt(name, tracker.finish)

    def _start(self, name: str, folder: Path, identity: Mapping[str, Any]) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        where = folder / "tracking"
        where.mkdir(parents=True, exist_ok=True)
        arguments: dict[str, tuple[tuple[Any, ...], dict[str, str]]] = {
            "tensorboard": (("tensorboard", where), {}),  # The name is that of a folder.
            "wandb": ((_PROJECT,), {"name": folder.name, "dir": str(where)}),
            "mlflow": ((_PROJECT,), {"run_name": folder.name}),
        }
        positional, named = arguments[name]
        tracker = self._trackers[name] = LOGGER_TYPE_TO_CLASS[name](*positional, **named)
        tracker.start()
        if name != "tensorboard" or not self._logged:  # TensorBoard takes all attempts as one run.
            tracker.store_init_configuration(_flat(identity))

    def _attempt(self, name: str, call: Callable[[], object]) -> None:
        """Call a tracker; drop it and warn if it fails, as when its server is away."""
        try:
            call()
        except Exception as error:  # of any library
            log.warning("going on without the tracker %s: %s", name, error)
            self._trackers.pop(name, None)


def epoch_values(epoch: "Epoch", rate: float) -> dict[str, float | None]:
    """Return what trackers log of an epoch of training that began at a learning rate."""
    metric, more = epoch["metric"], {f"test/{name}": value for name, value in epoch["more"].items()}
    return {
        "training/loss": epoch["loss"],
        "training/learning_rate": rate,
        f"validation/{metric}": epoch["validation"],
        f"test/{metric}": epoch["test"],
        **more,
    }


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str | int | float | bool]:
    """Return values as trackers take them: nested ones by their path, lists as text, None left out."""
    flat: dict[str, str | int | float | bool] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{name}.")
        elif value is not None:
            flat[f"{above}{name}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return flat
