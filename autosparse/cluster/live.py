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
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autosparse.cluster import status

PAUSE = 5.0  # seconds
_STYLES = ("green", "red", "yellow", "dim")  # by `status.attention`
_FIRST_TO_GO = ("requeues", "node", "job", "sparsity", "epoch", "iteration", "reason", "metric", "left", "done")
"""Columns that a narrow terminal does not show, in the order in which they go; `reason` is part of the state."""
_SHORTEST_NAME = 16
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
        yield _fitting(first, console, options)
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


def _fitting(rows: list[status.Row], console: Console, options: ConsoleOptions) -> Table:
    """Return a table without the columns for which the terminal is too narrow; then long names are shortened, too."""
    always = ("run", "state", "done")
    columns = [name for name in status.COLUMNS if name in always or any(row[name] for row in rows)] + ["reason"]
    longest = max((len(row["run"]) for row in rows), default=0)
    shortest = min(_SHORTEST_NAME, longest)
    for name in (None, *_FIRST_TO_GO):
        if name in columns:
            columns.remove(name)
        excess = console.measure(_table(rows, columns, longest), options=options.update(width=9999)).maximum
        excess -= options.max_width
        if excess <= longest - shortest:
            break
    return _table(rows, columns, max(1, longest - max(0, excess)))


def _table(rows: list[status.Row], columns: list[str], name_length: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        if name != "reason":
            table.add_column(name, no_wrap=True, overflow="ellipsis")
    for row in rows:
        state = row["state"] if "reason" in columns else _short(row["state"])
        fraction = 100.0 if state == "complete" else float(row["done"].rstrip("%") or 0)
        cells = row | {"run": _shortened(row["run"], name_length)}
        special: dict[str, Text | ProgressBar] = {
            "state": Text(state, _STYLES[status.attention(row)]),
            "done": ProgressBar(100.0, fraction, width=10),
        }
        table.add_row(*(special.get(name) or Text(cells[name]) for name in columns if name != "reason"))
    return table


def _shortened(name: str, length: int) -> str:
    """Return a name without its middle: names of runs differ in their ends."""
    if len(name) <= length:
        return name
    end = (length - 1) * 2 // 3
    return f"{name[: length - 1 - end]}…{name[len(name) - end :]}"
