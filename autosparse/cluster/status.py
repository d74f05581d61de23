"""The states of runs, from their folders and Slurm's queue together, as a table or a page that follows them.

Imports neither PyTorch nor pandas, so that a look at runs takes no longer than it must.
"""

import datetime
import os
import signal
import socket
import sys
import textwrap
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosparse.cluster import lease, slurm
from autosparse.cluster.job import SUBMITTED, error_of
from autosparse.cluster.records import PROGRESS, job_of, read_config
from autosparse.errors import UserError
from autosparse.files import read_json, read_record, walk
from autosparse.metrics import described

if TYPE_CHECKING:
    from rich.console import Group

COLUMNS = ("run", "state", "job", "iteration", "epoch", "done", "left", "sparsity", "metric", "requeues", "node")
ENDED = ("complete", "failed", "killed", "interrupted", "not started", "damaged")
SILENT = "Slurm does not answer (squeue)"
UNKNOWN = f"{SILENT}: the states of its jobs are not known"

PAUSE = 5.0  # seconds between two looks at the runs
_MARGIN = 4  # lines of a page besides its rows, at most
_STYLES = ("green", "red", "yellow", "dim")  # by `attention`
_WIDTH_FOR = {"done": 60, "left": 60, "metric": 70, "iteration": 100, "epoch": 110, "sparsity": 120, "job": 140}
_WIDTH_FOR |= {"node": 150, "requeues": 150}  # columns of a terminal from which a column of the table is shown

Row = dict[str, str]


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the folders of all runs at or below the paths, started or not, sorted; raise if a path has none."""
    folders = set[Path]()
    for path in paths:
        below = set(_runs(path))
        if not below:
            raise UserError(f"no runs at {path}")
        folders |= below
    return sorted(folders)


def rows(folders: Iterable[Path]) -> list[Row]:
    """Return one row per run, each with all `COLUMNS` and, as `why`, the error or signal that ended the run.

    `state`: complete, running, pending or held (with Slurm's reason), requeued, failed (by itself, or because Slurm
    ended its job before the run started), waiting in its job (of several runs), interrupted (stopped at a step),
    killed, not started, or damaged (a file of its folder cannot be read); Slurm's word while a job starts or ends;
    unknown where Slurm is silent.
    """
    queue = slurm.queue()
    known = [_row(folder, queue) for folder in folders]
    return [{name: str(row.get(name) or "") for name in (*COLUMNS, "why")} for row in known]


def current(paths: Iterable[Path]) -> list[Row]:
    """Return the rows of all runs at the paths, those that need attention first; a path may have lost its runs."""
    folders = set[Path]()
    for path in paths:
        with suppress(UserError):
            folders |= {*find([path])}
    return sorted(rows(sorted(folders)), key=attention)


def attention(row: Row) -> int:
    """Return the place of a row in a table, 0 first: running, gone wrong, waiting, complete."""
    state = row["state"]
    if state == "complete":
        return 3
    if state.startswith(("pending", "waiting")) or state in ("requeued", "not started"):
        return 2
    return 1 if state.startswith("held") or state in (*ENDED, "unknown") else 0


def ended(rows: Iterable[Row]) -> bool:
    """Return True if no run waits or works."""
    return all(row["state"] in ENDED for row in rows)


def log_end(folder: Path, lines: int, rank: int = 0) -> list[str] | None:
    """Return the last lines of the log of a run's process; None if the run has not started."""
    path = folder / "logs" / f"rank{rank}.log"
    if not path.is_file():
        return None
    with path.open(errors="replace") as file:
        return [*deque(file, lines)]


def table(rows: list[Row]) -> str:
    """Return the columns that are not empty as lines of text."""
    cells = [[name, *(row[name] for row in rows)] for name in COLUMNS if any(row[name] for row in rows)]
    widths = [max(map(len, column)) for column in cells]
    lines = zip(*cells, strict=True)
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def watch(paths: Sequence[Path]) -> list[Row]:
    """Show the runs at the paths, also new ones, until none waits or works, or until Ctrl-C; return the last rows.

    In a terminal they are a page; in a file or pipe, a table when more has changed than the fraction done and the time
    left.
    """
    from rich.console import Console  # It takes a while to import.
    from rich.live import Live

    find(paths)
    found, shown = list[Row](), list[Row]()
    terminal = sys.stdout.isatty()
    screen = Console()

    def shown_page() -> "Group":
        return page(found, *screen.size)

    live = Live(console=screen, screen=True, refresh_per_second=2, get_renderable=shown_page) if terminal else None
    with suppress(KeyboardInterrupt), live or nullcontext():
        while True:
            start = time.monotonic()
            found = current(paths)
            slow = [row | {"done": "", "left": ""} for row in found]
            if not terminal and slow != shown:
                print(table(found), end="\n\n", flush=True)
            shown = slow
            if ended(found):
                break
            time.sleep(max(PAUSE, 10 * (time.monotonic() - start)))  # A slow Slurm is asked less often.
    if terminal:  # The page has vanished with its screen.
        screen.print(page(found, screen.width, len(found) + _MARGIN))
    return found


def page(rows: list[Row], width: int, height: int) -> "Group":
    """Return runs as they fit into a terminal: the first rows, the number of the others, the important columns."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Column, Table
    from rich.text import Text

    def line(text: str, style: str = "") -> Text:
        return Text(text, style, no_wrap=True, overflow="ellipsis")

    silent = any(row["state"] == "unknown" for row in rows)
    wide = width >= _WIDTH_FOR["done"]
    counts = f"{len(rows)} in all: {_counts(rows)}; {datetime.datetime.now():%H:%M:%S}"
    above = textwrap.wrap(counts, width)[:2] if wide else [counts]
    lines = max(1, height - len(above) - 1 - silent)  # without the counts above and the table's head
    lines -= len(rows) > lines
    columns = [name for name in COLUMNS if name in ("run", "state", "done") or any(row[name] for row in rows)]
    columns = [name for name in columns if width >= _WIDTH_FOR.get(name, 0)]
    head: list[Column | str] = [Column("run", no_wrap=True), *columns[1:]]  # The other columns are shortened first.
    runs = Table(*head, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for row in rows[:lines]:
        cells: dict[str, Text | ProgressBar] = {name: line(row[name]) for name in columns}
        cells["run"] = line(_shortened(row["run"], width // 3))
        cells["state"] = line(row["state"] if width >= _WIDTH_FOR["iteration"] else _word(row), _STYLES[attention(row)])
        if wide:
            done = 100.0 if row["state"] == "complete" else float(row["done"].rstrip("%") or 0)
            cells["done"] = ProgressBar(100.0, done, width=10)
        runs.add_row(*cells.values())
    parts: list[Any] = [*(line(text, "bold") for text in above), runs]
    if rest := rows[lines:]:
        parts.append(line(f"{len(rest)} more: {_counts(rest)}", "dim"))
    if silent:
        parts.append(line(UNKNOWN, "red"))
    return Group(*parts)


def _word(row: Row) -> str:
    """Return the state of a run without its reason."""
    return row["state"].partition(" (")[0]


def _counts(rows: list[Row]) -> str:
    return ", ".join(f"{n} {state}" for state, n in Counter(map(_word, rows)).items())


def _shortened(name: str, width: int) -> str:
    """Return a name that loses its middle where it does not fit: names of runs differ in their ends."""
    end = (width - 1) * 2 // 3
    return name if len(name) <= width else f"{name[: width - 1 - end]}…{name[len(name) - end :]}"


def stop(folders: Iterable[Path]) -> list[Path]:
    """Stop runs that wait or work, on Slurm by scancel, on this machine at the next step; return their folders.

    A run on another machine outside of Slurm, or one that may be in the queue of a silent Slurm, is an error.
    """
    queue, jobs, stopped, errors = slurm.queue(), list[str](), list[Path](), list[str]()
    signalled = set[int]()  # A second signal would end a process that works on several runs at once.
    for folder in folders:
        job, holder = job_of(folder), lease.holder_of(folder)
        # A run that was submitted twice has two jobs.
        queued = [job_id for job_id in {job, holder["job"] if holder else None} if queue and job_id in queue]
        if queue is None and job and read_record(folder / "status.json").get("state") != "complete":
            errors.append(f"{folder}: {SILENT}, and job {job} may be in its queue; try again")
        elif queued:
            jobs += queued
            stopped.append(folder)
        elif holder and holder["host"] == socket.gethostname():
            if holder["pid"] not in signalled:
                os.kill(holder["pid"], signal.SIGTERM)
            signalled.add(holder["pid"])
            stopped.append(folder)
        elif holder:
            errors.append(f"{folder}: process {holder['pid']} on {holder['host']} works on it; stop it there")
    slurm.cancel([*dict.fromkeys(jobs)])
    if errors:
        raise UserError("; ".join(errors))
    return stopped


def _runs(path: Path) -> Iterator[Path]:
    """Yield the runs at or below a path, without a look into them: they may have thousands of files."""
    for where, folders, files in walk(path):
        if "config.yaml" in files or "job.json" in files:
            yield where
            folders.clear()
        elif where.name == SUBMITTED and where != path:
            folders.clear()


def _row(folder: Path, queue: dict[str, slurm.State] | None) -> dict[str, Any]:
    status, job, state = read_record(folder / "status.json"), job_of(folder), state_of(folder, queue)
    row = {"run": folder.name, "state": state, "job": job, "requeues": status.get("requeues")}
    row |= {"node": status.get("node"), "why": error_of(folder) if state in ("failed", "interrupted") else None}
    if state == "failed" and not status:
        row["why"] = f"Slurm ended job {job} before the run started; log: {read_record(folder / 'job.json').get('log')}"
    try:
        return row | _steps(folder, state) | _figures(folder)
    # A damaged run, or one that is being deleted, is one line of the table.
    except (UserError, OSError, LookupError, TypeError, ValueError, AttributeError):
        return row | ({"state": "damaged"} if state in ENDED else {})


def state_of(folder: Path, queue: dict[str, slurm.State] | None) -> str:
    """Return the state of a run, see `rows`, by the answer of `slurm.queue`."""
    status, job = read_record(folder / "status.json"), job_of(folder)
    state = str(status.get("state", "damaged" if (folder / "status.json").is_file() else "not started"))
    if state == "damaged" and lease.holder_of(folder):
        state = "running"
    if state == "complete":
        return state
    if job and queue is None:
        return "unknown"
    if queue and job in queue:
        queued = queue[job]
        if queued.state == "RUNNING" and read_record(folder / "job.json").get("runs", 1) > 1:  # Others may be first.
            return state if status.get("job") == job and state in ("running", "failed") else "waiting in its job"
        if queued.state != "PENDING":
            return queued.state.lower()
        if queued.held:
            return f"held ({queued.reason})"
        return "requeued" if status.get("job") == job else f"pending ({queued.reason})"
    if job and state == "not started":
        return "failed"
    return "killed" if state == "running" and lease.holder_of(folder) is None else state


def _steps(folder: Path, state: str) -> dict[str, str]:
    """Return how far a run is within its training or fit, where `progress.json` says it."""
    progress = read_record(folder / PROGRESS) if state != "complete" else {}
    row = {}
    if progress and state == "running":
        row["done"] = f"{progress['done'] / max(1, progress['total']):.0%}"
        row["left"] = str(datetime.timedelta(seconds=round(progress["seconds_left"])))
    if "epoch" in progress:
        row["epoch"] = f"{progress['epoch']} of {progress['epochs']}"
        row["metric"] = described(progress["metric"], progress["value"])
    return row


def _figures(folder: Path) -> dict[str, str]:
    """Return iteration, sparsity and metric where they are known, or the epochs and last loss of a complete fit."""
    if result := read_record(folder / "result.json"):
        return {"sparsity": f"{1 - result['density']:.2%}", "metric": described(result["metric"], result["test"])}
    if fitted := read_record(folder / "autos.json"):
        losses = fitted["card"]["losses"]
        return {"epoch": f"{len(losses)} of {len(losses)}", "metric": described("loss", losses[-1])}
    config = read_config(folder) if (folder / "config.yaml").is_file() else {}
    history = read_json(folder / "history.json") if (folder / "history.json").is_file() else []
    figures = {}
    if "iterations" in config:
        figures["iteration"] = f"{max(0, len(history) - 1)} of {config['iterations']}"
    if history:
        last = history[-1]
        return figures | {"sparsity": f"{1 - last['density']:.2%}", "metric": described(last["metric"], last["test"])}
    return figures | ({"sparsity": f"{config['sparsity']:.2%}"} if "sparsity" in config else {})
