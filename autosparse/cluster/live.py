"""`runs --live`: a page in the terminal that follows runs; in a file or pipe, a table whenever a row has changed."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autosparse.cluster import status

PAUSE = 5.0  # seconds
_STYLES = ("green", "red", "yellow", "dim")  # by `status.attention`
_WIDTH_FOR = {"done": 60, "left": 60, "metric": 70, "iteration": 100, "epoch": 110, "sparsity": 120, "job": 140}
_WIDTH_FOR |= {"node": 150, "requeues": 150}  # columns of a terminal from which a column of the table is shown
_ALWAYS_CHANGING = ("done", "left")


def watch(paths: Sequence[Path]) -> list[status.Row]:
    """Show the runs at the paths, also new ones, until none waits or works, or until Ctrl-C.

    Args:
        paths: folders of runs, or folders that hold them.

    Returns:
        The rows shown last.

    Raises:
        UserError: there are no runs at one of the paths.
    """
    status.find(paths)
    terminal = sys.stdout.isatty()
    rows = list[status.Row]()
    with suppress(KeyboardInterrupt), _screen() if terminal else _tables() as show:
        while True:
            start = time.monotonic()
            rows = status.current(paths)
            show(rows)
            if status.ended(rows):
                break
            time.sleep(max(PAUSE, 10 * (time.monotonic() - start)))  # A slow Slurm is asked less often.
    if terminal:  # The page has vanished with its screen.
        print(status.table(rows))
    return rows


@contextmanager
def _screen() -> Iterator[Callable[[list[status.Row]], None]]:
    with Live(console=Console(), screen=True, auto_refresh=True, refresh_per_second=2) as live:
        yield lambda rows: live.update(Page(rows), refresh=True)


@contextmanager
def _tables() -> Iterator[Callable[[list[status.Row]], None]]:
    """Print a table when more has changed than the fraction done and the time left."""
    shown: list[status.Row] | None = None

    def show(rows: list[status.Row]) -> None:
        nonlocal shown
        slow = [{name: text for name, text in row.items() if name not in _ALWAYS_CHANGING} for row in rows]
        if slow != shown:
            print(status.table(rows), end="\n\n", flush=True)
        shown = slow

    yield show


class Page:
    """Runs as they fit into a terminal: the first rows, the number of the others, the most important columns."""

    def __init__(self, rows: list[status.Row]) -> None:
        self._rows, self._time = rows, datetime.now().strftime("%H:%M:%S")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _line(f"{len(self._rows)} in all: {_counts(self._rows)}; {self._time}", "bold")
        silent = any(row["state"] == "unknown" for row in self._rows)
        lines = (options.height or console.height) - 2 - silent  # without the line above and the table's head
        if len(self._rows) > lines:
            lines -= 1
        first, hidden = self._rows[: max(1, lines)], self._rows[max(1, lines) :]
        yield _table(first, options.max_width)
        if hidden:
            yield _line(f"{len(hidden)} more: {_counts(hidden)}", "dim")
        if silent:
            yield _line(status.UNKNOWN, "red")


def _line(text: str, style: str) -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _counts(rows: list[status.Row]) -> str:
    """Return the number of rows in each state, without the reasons."""
    return ", ".join(f"{n} {state}" for state, n in Counter(_short(row["state"]) for row in rows).items())


def _short(state: str) -> str:
    return state.partition(" (")[0]


def _table(rows: list[status.Row], width: int) -> Table:
    """Return the columns that fit into a terminal; rich shortens the widest ones further."""
    always = ("run", "state", "done")
    columns = [name for name in status.COLUMNS if name in always or any(row[name] for row in rows)]
    columns = [name for name in columns if width >= _WIDTH_FOR.get(name, 0)]
    wide = width >= _WIDTH_FOR["done"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        table.add_column(name)
    for row in rows:
        state = row["state"] if wide else _short(row["state"])
        fraction = 100.0 if state == "complete" else float(row["done"].rstrip("%") or 0)
        cells: dict[str, Text | ProgressBar | _Name] = {name: _line(row[name], "") for name in columns}
        cells["run"] = _Name(row["run"])
        cells["state"] = _line(state, _STYLES[status.attention(row)])
        if wide:
            cells["done"] = ProgressBar(100.0, fraction, width=10)
        table.add_row(*cells.values())
    return table


class _Name:
    """A name that loses its middle where it does not fit: names of runs differ in their ends."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(8, len(self._name)), len(self._name))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        name, width = self._name, options.max_width
        end = (width - 1) * 2 // 3
        yield Text(name if len(name) <= width else f"{name[: width - 1 - end]}…{name[len(name) - end :]}", no_wrap=True)
