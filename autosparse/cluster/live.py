"""`status --live`: a page in a terminal that follows runs; tables in a file or pipe."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autosparse.cluster import status
from autosparse.cluster.poll import Poll

_STYLES = ("green", "red", "yellow", "dim")  # by interest
# where it is narrow; the reason is that of what is pending
_FIRST_TO_GO = ("requeues", "node", "job", "sparsity", "epoch", "iteration", "reason", "metric", "left", "done")
_BAR, _NAME, _GAP = 10, 16, 2  # columns of a terminal: of the bar, of a run's name at least, between two cells
_QUICK = ("done", "left")  # columns that always change


def watch(poll: Poll) -> list[status.Row]:
    """Show runs until nothing waits or runs, or until Ctrl-C; returns what was shown last."""
    rows = poll.rows()
    terminal = sys.stdout.isatty()
    with suppress(KeyboardInterrupt), _on_screen() if terminal else _in_log() as show:
        show(rows)
        while not status.ended(rows):
            poll.wait()
            rows = poll.rows()
            show(rows)
    if terminal:  # the page is gone with its screen
        print(status.table(rows))
    return rows


@contextmanager
def _on_screen() -> Iterator[Callable[[list[status.Row]], None]]:
    with Live(console=Console(), screen=True, auto_refresh=True, refresh_per_second=2) as live:
        yield lambda rows: live.update(Page(rows), refresh=True)


@contextmanager
def _in_log() -> Iterator[Callable[[list[status.Row]], None]]:
    """Tables, when more has changed than the share done and the time left."""
    told: list[status.Row] | None = None

    def show(rows: list[status.Row]) -> None:
        nonlocal told
        slow = [{name: text for name, text in row.items() if name not in _QUICK} for row in rows]
        if slow != told:
            print(status.table(rows), end="\n\n", flush=True)
        told = slow

    yield show


class Page:
    """Runs as they fit into a terminal: the first ones, how many are left out, and the columns that matter most."""

    def __init__(self, rows: list[status.Row]) -> None:
        self._rows, self._time = rows, datetime.now().strftime("%H:%M:%S")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.height or console.height
        yield _line(f"{len(self._rows)} in all: {_counted(self._rows)}; {self._time}", "bold")
        silent = any(row["state"] == "unknown" for row in self._rows)
        room = height - 2 - silent  # above the table, and its head
        if len(self._rows) > room:
            room -= 1
        yield _table(self._rows[: max(1, room)], options.max_width)
        if hidden := self._rows[max(1, room) :]:
            yield _line(f"{len(hidden)} more: {_counted(hidden)}", "dim")
        if silent:
            yield _line(f"{status.SILENT}: what waits or runs there is not known", "red")


def _line(text: str, style: str) -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _counted(rows: list[status.Row]) -> str:
    """How many rows are in each state, reasons apart."""
    return ", ".join(f"{n} {state}" for state, n in Counter(row["state"].partition(" (")[0] for row in rows).items())


def _table(rows: list[status.Row], width: int) -> Table:
    widths = _columns(rows, width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for name, size in widths.items():
        table.add_column(name, width=size, no_wrap=True, overflow="ellipsis")
    for row in rows:
        cells = {name: Text(row[name]) for name in widths} | {"run": Text(_shortened(row["run"], widths["run"]))}
        cells["state"].stylize(_STYLES[status.interest(row)])
        share = 100.0 if row["state"] == "complete" else float(row["done"].rstrip("%") or 0)
        table.add_row(*((cells | {"done": ProgressBar(completed=share, width=_BAR)}).values()))
    return table


def _columns(rows: list[status.Row], width: int) -> dict[str, int]:
    """The columns that fit, and how wide each is; the run and its state are always there."""
    widths = {name: max(map(len, [name, *(row[name] for row in rows)])) for name in status.COLUMNS} | {"done": _BAR}
    always = ("run", "state", "done")
    widths = {name: size for name, size in widths.items() if name in always or any(row[name] for row in rows)}

    short = max((len(row["state"].partition(" (")[0]) for row in rows), default=0)
    least = min(_NAME, widths["run"])

    def too_wide() -> int:
        return sum(widths.values()) + _GAP * len(widths) - width

    for name in _FIRST_TO_GO:
        if too_wide() > widths["run"] - least:
            if name == "reason":
                widths["state"] = short
            else:
                widths.pop(name, None)
    widths["run"] -= max(0, too_wide())
    return {name: max(1, size) for name, size in widths.items()}


def _shortened(name: str, width: int) -> str:
    """A name that lacks its middle: names of runs differ in their ends."""
    if len(name) <= width:
        return name
    end = (width - 1) * 2 // 3
    return f"{name[: width - 1 - end]}…{name[len(name) - end :]}"
