"""Whose log a message belongs to, where one process works on several runs."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_SPEAKER: ContextVar[Path | None] = ContextVar("speaker", default=None)


@contextmanager
def speaking(folder: Path) -> Iterator[None]:
    """Within the block, what is logged is of the run in this folder."""
    token = _SPEAKER.set(folder)
    try:
        yield
    finally:
        _SPEAKER.reset(token)


def about(folder: Path) -> Callable[[logging.LogRecord], bool]:
    """A filter for what is logged of a run, or by nobody in particular."""
    return lambda record: _SPEAKER.get() in (None, folder)
