"""The rows of runs for those who keep looking: read again every few seconds, once for all of them."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from autosparse.cluster import status
from autosparse.errors import UserError

PAUSE = 5.0  # seconds


class Poll:
    """What runs are doing, no older than some seconds; several threads may look.

    Args:
        paths: folders of runs, or folders that hold them; a run that is added there later is found, too.

    Raises:
        UserError: there are no runs at one of them.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        status.find(paths)
        self._paths = paths
        self._lock = threading.Lock()
        self._rows: list[status.Row] = []
        self._due = 0.0

    def rows(self) -> list[status.Row]:
        """A row a run, those to be looked at first at the top; see `status.rows`."""
        with self._lock:
            began = time.monotonic()
            if began >= self._due:
                self._rows = sorted(status.rows(self._folders()), key=status.interest)
                now = time.monotonic()
                self._due = now + max(PAUSE, 10 * (now - began))  # a Slurm that is slow is asked less
            return self._rows

    def wait(self) -> None:
        """Sleep until there is something to look at again."""
        time.sleep(max(0.0, self._due - time.monotonic()))

    def _folders(self) -> list[Path]:
        found = set[Path]()
        for path in self._paths:
            with suppress(UserError):  # all were deleted since
                found |= {*status.find([path])}
        return sorted(found)
