"""What runs are doing: from their folders and from Slurm's queue together.

Imports neither PyTorch nor pandas: whoever looks at runs does it often, and does not want to wait for them.
"""

import datetime
import os
import signal
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from autosparse.cluster import lease, logs, slurm
from autosparse.cluster.job import why
from autosparse.cluster.progress import PROGRESS
from autosparse.cluster.provenance import read_config
from autosparse.errors import UserError
from autosparse.files import read_json, read_record, walk
from autosparse.metrics import described

COLUMNS = ("run", "state", "job", "iteration", "epoch", "done", "left", "sparsity", "metric", "requeues", "node")
ENDED = ("complete", "failed", "killed", "interrupted", "not started", "damaged")
SILENT = "Slurm does not answer (squeue)"

Row = dict[str, str]


def find(paths: Iterable[Path]) -> list[Path]:
    """The folders of all runs at or below the paths, started or not, sorted.

    Raises:
        UserError: there are none at one of them.
    """
    found = set[Path]()
    for path in paths:
        here = set(_runs(path))
        if not here:
            raise UserError(f"no runs at {path}")
        found |= here
    return sorted(found)


def rows(folders: Iterable[Path]) -> list[Row]:
    """Return one row per run, each with all `COLUMNS` and with `why` it failed or was interrupted, if that is known.

    `state`: complete, running, pending or held (with Slurm's reason), requeued, failed (by itself, or because Slurm
    ended its job before the run started), interrupted (stopped at a step), killed, not started, or damaged (a file of
    its folder cannot be read); Slurm's word while a job starts or ends; unknown where Slurm is silent.
    """
    queue = slurm.queue()
    found = [_row(folder, queue) for folder in folders]
    return [{name: str(row.get(name) or "") for name in (*COLUMNS, "why")} for row in found]


def interest(row: Row) -> int:
    """How soon a row is to be looked at, 0 first: what works, what went wrong, what waits, what is complete."""
    state = row["state"]
    if state == "complete":
        return 3
    if state.startswith("pending") or state in ("requeued", "not started"):
        return 2
    return 1 if state.startswith("held") or state in (*ENDED, "unknown") else 0


def ended(rows: Iterable[Row]) -> bool:
    """Whether nothing waits or runs."""
    return all(row["state"] in ENDED for row in rows)


def table(rows: list[Row]) -> str:
    """The columns in which anything stands, as lines of text."""
    columns = [[name, *(row[name] for row in rows)] for name in COLUMNS if any(row[name] for row in rows)]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def stop(folders: Iterable[Path]) -> list[Path]:
    """Stop what waits or runs: on Slurm by scancel, on this machine at the next step; returns the runs it was asked of.

    Raises:
        UserError: a run that works on another machine, outside of Slurm, or that may be in the queue of a Slurm that is
            silent.
    """
    queue, jobs, stopped = slurm.queue(), list[str](), list[Path]()
    asked = set[int]()  # of several runs in one process: a second signal would end it there and then
    errors = list[str]()
    for folder in folders:
        job, holder = _job(folder), lease.holder_of(folder)
        # two, where it was submitted twice
        queued = [each for each in {job, holder["job"] if holder else None} if queue and each in queue]
        if queue is None and job and read_record(folder / "status.json").get("state") != "complete":
            errors.append(f"{folder}: {SILENT}, and job {job} may be in its queue; try again")
        elif queued:
            jobs += queued
            stopped.append(folder)
        elif holder and holder["host"] == socket.gethostname():
            if holder["pid"] not in asked:
                os.kill(holder["pid"], signal.SIGTERM)
            asked.add(holder["pid"])
            stopped.append(folder)
        elif holder:
            errors.append(f"{folder}: process {holder['pid']} on {holder['host']} works on it; stop it there")
    slurm.cancel([*dict.fromkeys(jobs)])
    if errors:
        raise UserError("; ".join(errors))
    return stopped


def _runs(path: Path) -> Iterator[Path]:
    """The runs at or below a path; not what lies in them, which may be thousands of files."""
    for where, folders, files in walk(path):
        if "config.yaml" in files or "job.json" in files:
            yield where
            folders.clear()
        elif logs.JOBS in files:
            folders.clear()


def _row(folder: Path, queue: dict[str, slurm.State] | None) -> dict[str, Any]:
    said, job = read_record(folder / "status.json"), _job(folder)
    state = _state(folder, said, job, queue)
    row = {"run": folder.name, "state": state, "job": job, "requeues": said.get("requeues"), "node": said.get("node")}
    row["why"] = why(folder) if state in ("failed", "interrupted") else None
    if state == "failed" and not said:
        row["why"] = f"Slurm ended job {job} before the run started; log: {read_record(folder / 'job.json').get('log')}"
    try:
        return row | _steps(folder, state) | _figures(folder)
    # one bad run is one line, and so is one that is deleted just now; the others go on
    except (UserError, OSError, LookupError, TypeError, ValueError, AttributeError):
        return row | ({"state": "damaged"} if state in ENDED else {})


def _job(folder: Path) -> str | None:
    """The job of Slurm that a run was submitted as, or, where that record is lost, that last worked on it."""
    submitted, worked = (read_record(folder / name) for name in ("job.json", "status.json"))
    return submitted.get("job", worked.get("job"))


def _state(folder: Path, said: dict[str, Any], job: str | None, queue: dict[str, slurm.State] | None) -> str:
    state = str(said.get("state", "damaged" if (folder / "status.json").is_file() else "not started"))
    if state == "damaged" and lease.holder_of(folder):
        state = "running"
    if state == "complete":
        return state
    if job and queue is None:
        return "unknown"
    if queue and job in queue:
        now = queue[job]
        if now.state != "PENDING":
            return now.state.lower()
        if now.held:
            return f"held ({now.reason})"
        return "requeued" if said.get("job") == job else f"pending ({now.reason})"
    if job and state == "not started":
        return "failed"
    return "killed" if state == "running" and lease.holder_of(folder) is None else state


def _steps(folder: Path, state: str) -> dict[str, str]:
    """How far a run is within its training or fit, as far as it says."""
    said = read_record(folder / PROGRESS) if state != "complete" else {}
    row = {}
    if said and state == "running":
        row["done"] = f"{said['done'] / max(1, said['total']):.0%}"
        row["left"] = str(datetime.timedelta(seconds=round(said["seconds_left"])))
    if "epoch" in said:
        row["epoch"] = f"{said['epoch']} of {said['epochs']}"
        row["metric"] = described(said["metric"], said["value"])
    return row


def _figures(folder: Path) -> dict[str, str]:
    """Iteration, sparsity and metric, as far as they are known; for a complete fit, its epochs and its last loss."""
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
