"""Reading lane by lane, a window ahead, within a budget of memory. What a lane is: `order`."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosparse.errors import UserError
from autosparse.sizes import format_size
from autosparse.store.order import Order, Window

# As many as the memory allows: for the same memory, more lanes mix better than wider windows (benchmarks/mixing.py).
# Worlds of 1, 2, 3, 4, 6, 8, 12, 16, 24, 32 and 48 processes cut the first two evenly.
LANES = (192, 96, 48, 24, 12, 6, 3, 1)

Columns = dict[str, NDArray[Any]]  # theta, grad, survival and store of some samples


def plan(memory: int, chunk: int, bytes_per_sample: int, written: str) -> tuple[int, int]:
    """How many lanes, and how many chunks a window, fit into so many bytes.

    Raises:
        UserError: not even one.
    """
    lanes = next((n for n in LANES if needed(n, chunk, bytes_per_sample) <= memory), 0)
    if not lanes:
        least = format_size(needed(1, chunk, bytes_per_sample))
        raise UserError(f"memory of {written} is less than one chunk of triples takes; give at least {least}")
    return lanes, memory // needed(lanes, chunk, bytes_per_sample)


def needed(lanes: int, chunk: int, bytes_per_sample: int) -> int:
    """Bytes for windows of one chunk: a current and a next one a lane, and those just being permuted."""
    return (2 * lanes + 4) * chunk * bytes_per_sample


class Lane:
    """The samples of a lane, window after window, the next one being read while the current one is cut."""

    def __init__(
        self,
        order: Order,
        number: int,
        read: Callable[[Order, Window], Columns],
        pool: ThreadPoolExecutor | None,
    ) -> None:
        self.number = number
        self._order, self._read, self._pool = order, read, pool
        self._windows = order.windows(number)
        self._ends = np.cumsum([window.size for window in self._windows])
        self._open: dict[int, Future[Columns]] = {}

    def ask(self, position: int) -> None:
        """Have the window read that holds the sample at a position."""
        self._ask(int(np.searchsorted(self._ends, position, side="right")))

    def take(self, start: int, stop: int) -> list[Columns]:
        """The lane's samples start..stop, over as many windows as they lie in."""
        parts, number = list[Columns](), int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            window, columns = self._windows[number], self._window(number)
            end = min(stop, window.start + window.size)
            parts.append({name: values[start - window.start : end - window.start] for name, values in columns.items()})
            start, number = end, number + 1
        return parts

    def _window(self, number: int) -> Columns:
        self._ask(number)
        if self._pool:
            self._ask(number + 1)
        for passed in [k for k in self._open if k < number]:
            del self._open[passed]
        return self._open[number].result()

    def _ask(self, number: int) -> None:
        if number in self._open or number >= len(self._windows):
            return
        window = self._windows[number]
        if self._pool:
            self._open[number] = self._pool.submit(self._read, self._order, window)
        else:
            done = Future[Columns]()
            self._open[number] = done
            done.set_result(self._read(self._order, window))
