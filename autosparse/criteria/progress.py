"""How far pruning is: a bar on standard error for what takes longer than a moment."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from tqdm import tqdm

from autosparse.distributed import rank_and_size

_PATIENCE = 2.0  # seconds before there is anything to see
_bar: ContextVar[tqdm | None] = ContextVar("bar", default=None)


@contextlib.contextmanager
def showing(name: str) -> Iterator[None]:
    """Show, on the first process, what `batch_read` and `round_started` are told inside."""
    disable = rank_and_size()[0] > 0
    with tqdm(desc=f"pruning by {name}", unit=" batches", delay=_PATIENCE, leave=False, disable=disable) as bar:
        token = _bar.set(bar)
        try:
            yield
        finally:
            _bar.reset(token)


def batch_read() -> None:
    """One more batch is read."""
    if (bar := _bar.get()) is not None:
        bar.update(1)


def round_started(number: int, rounds: int) -> None:
    """The first of the rounds is number 1. From the second on it can be seen how long they will take."""
    if (bar := _bar.get()) is not None:
        bar.set_postfix_str(f"round {number}/{rounds}", refresh=False)
        if number > 1:
            bar.total = bar.n * rounds // (number - 1)
