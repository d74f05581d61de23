"""Progress of a job: a bar in the terminal, and `progress.json` in the run's folder."""

import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from autosparse.files import write_json
from autosparse.metrics import described

PROGRESS = "progress.json"
_INTERVAL = 5.0  # seconds between two writings


class Progress:
    """Counts steps; made by `progress`."""

    def __init__(self, path: Path | None, bar: tqdm, total: int) -> None:
        self._path, self._bar, self._total = path, bar, total
        self._done = self._before = 0
        self._start = self._written = time.monotonic()
        self._epoch: dict[str, Any] = {}
        self._history: list[dict[str, Any]] = []

    def update(self, steps: int, note: str = "") -> None:
        """Count steps as done: 1, or any number at once that were done before this attempt."""
        self._done += steps
        self._before += steps if steps != 1 else 0
        if note or self._epoch:
            self._bar.set_postfix_str(", ".join(filter(None, (self._described(), note))), refresh=False)
        self._bar.update(steps)
        if time.monotonic() - self._written >= _INTERVAL:
            self.write()

    def tell(self, epoch: int, epochs: int, metric: str, value: float) -> None:
        """Note the epochs of a training or fit that are done, and the newest value of its metric or loss."""
        self._epoch = {"epoch": epoch, "epochs": epochs, "metric": metric, "value": value}
        self._history = self._history * (epoch > 1) + [{"epoch": epoch, "metric": metric, "test": value}]

    def write(self) -> None:
        """Write `progress.json`: steps done and in all, seconds left, and the epochs of the newest training."""
        self._written = time.monotonic()
        if self._path:
            pace = (self._written - self._start) / max(1, self._done - self._before)
            left = round(pace * (self._total - self._done), 1)
            with contextlib.suppress(OSError):  # Writers of essential files report a full disk.
                steps = {"done": self._done, "total": self._total, "seconds_left": left}
                write_json(self._path, {**steps, **self._epoch, "history": self._history})

    def _described(self) -> str:
        if not self._epoch:
            return ""
        epoch, epochs, metric, value = self._epoch.values()
        return f"epoch {epoch} of {epochs}, {described(metric, value)}"


@contextmanager
def progress(folder: Path, steps: int, name: str, main: bool, shown: bool = True) -> Iterator[Progress]:
    """Follow the steps of a job; only its main process shows a bar, called `name`, and writes `progress.json`."""
    with tqdm(total=steps, desc=name, unit="step", disable=None if main and shown else True, leave=False) as bar:
        counter = Progress(folder / PROGRESS if main else None, bar, steps)
        try:
            yield counter
        finally:
            counter.write()


def say(message: str) -> None:
    """Print a line to standard error, above a progress bar if one is shown."""
    tqdm.write(message, file=sys.stderr)
