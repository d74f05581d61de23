"""How far a job is: a bar for a person who is looking, and `progress.json` in the run's folder for all others."""

import contextlib
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

    def update(self, steps: int, note: str = "") -> None:
        """So many more steps are done: 1, or any number at once that were done before this attempt."""
        self._done += steps
        self._before += steps if steps != 1 else 0
        if note or self._epoch:
            self._bar.set_postfix_str(", ".join(filter(None, (self._described(), note))), refresh=False)
        self._bar.update(steps)
        if time.monotonic() - self._written >= _INTERVAL:
            self.write()

    def tell(self, epoch: int, epochs: int, metric: str, value: float) -> None:
        """So many epochs of a training or fit are done; the newest value of its metric or loss."""
        self._epoch = {"epoch": epoch, "epochs": epochs, "metric": metric, "value": value}

    def write(self) -> None:
        """Write `progress.json`: steps done and in all, seconds left at the pace of this attempt, the newest epoch."""
        self._written = time.monotonic()
        if self._path:
            pace = (self._written - self._start) / max(1, self._done - self._before)
            left = round(pace * (self._total - self._done), 1)
            with contextlib.suppress(OSError):  # a full disk is for those to report who write what is needed
                steps = {"done": self._done, "total": self._total, "seconds_left": left}
                write_json(self._path, steps | self._epoch)

    def _described(self) -> str:
        told = self._epoch
        return f"epoch {told['epoch']} of {told['epochs']}, {described(told['metric'], told['value'])}" if told else ""


@contextmanager
def progress(folder: Path, steps: int, name: str, main: bool, shown: bool = True) -> Iterator[Progress]:
    """Follow a job of so many steps; only its main process shows, if at all, and writes."""
    with tqdm(total=steps, desc=name, unit="step", disable=None if main and shown else True, leave=False) as bar:
        following = Progress(folder / PROGRESS if main else None, bar, steps)
        try:
            yield following
        finally:
            following.write()
