"""Progress of pruning: a bar on standard error, after two seconds and only in a terminal."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from tqdm import tqdm

from autosparse.distributed import rank_and_size

_PATIENCE = 2.0  # seconds before the bar appears
_bar: ContextVar[tqdm | None] = ContextVar("bar", default=None)


@contextlib.contextmanager
def progress_bar(name: str) -> Iterator[None]:
    """Show, on the first process, the batches read inside the block or, if the criterion has any, its rounds."""
    disable = True if rank_and_size()[0] > 0 else None  # None: if standard error is not a terminal
    with tqdm(desc=f"pruning by {name}", unit=" batches", delay=_PATIENCE, leave=False, disable=disable) as bar:
        token = _bar.set(bar)
        try:
            yield
        finally:
            _bar.reset(token)


def batch_read() -> None:
    """Count one more batch, unless rounds are counted."""
    bar = _bar.get()
    if bar is not None and bar.total is None:
        bar.update(1)


def round_started(number: int, rounds: int) -> None:
    """Count rounds from now on; the first is number 1."""
    bar = _bar.get()
    if bar is not None:
        bar.unit, bar.total = " rounds", rounds
        bar.update(number - 1 - bar.n)
