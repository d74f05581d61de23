"""What runs are doing: from their folders and from Slurm's queue together."""

import datetime
import os
import signal
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from autosparse.cluster import lease, slurm
from autosparse.cluster.progress import PROGRESS
from autosparse.cluster.record import read_config
from autosparse.errors import UserError
from autosparse.files import read_json
from autosparse.study.results import is_complete

COLUMNS = ("run", "state", "job", "iteration", "done", "left", "sparsity", "accuracy", "requeues", "node")
ENDED = ("complete", "failed", "killed", "interrupted", "not started")


def find(paths: Iterable[Path]) -> list[Path]:
    """The folders of all runs at or below the paths, started or not, sorted.

    Raises:
        UserError: there are none at one of them.
    """
    found = set[Path]()
    for path in paths:
        here = {file.parent for name in ("config.yaml", "job.json") for file in [path / name, *path.rglob(name)]}
        if not (
            runs := {folder for folder in here if any((folder / n).is_file() for n in ("config.yaml", "job.json"))}
        ):
            raise UserError(f"no runs at {path}")
        found |= runs
    return sorted(found)


def status(folders: Iterable[Path]) -> pd.DataFrame:
    """A row a run, `COLUMNS` of strings.

    `state`: complete, running, pending (with Slurm's reason), requeued, failed, interrupted (stopped at a step),
    killed, or not started.
    """
    waiting = slurm.queue() or {}
    rows = [_row(folder, waiting) for folder in folders]
    return pd.DataFrame([[str(row.get(name) or "") for name in COLUMNS] for row in rows], columns=list(COLUMNS))


def stop(folders: Iterable[Path]) -> list[Path]:
    """Stop what waits or runs: on Slurm by scancel, on this machine at the next step; returns the runs it was asked of.

    Raises:
        UserError: a run that works on another machine, outside of Slurm.
    """
    waiting, jobs, stopped = slurm.queue() or {}, list[str](), list[Path]()
    elsewhere = list[str]()
    for folder in folders:
        job, holder = _submission(folder).get("job"), lease.holder_of(folder)
        if job in waiting:
            jobs.append(job)
        elif holder and holder["host"] == socket.gethostname():
            os.kill(holder["pid"], signal.SIGTERM)
        elif holder:
            elsewhere.append(f"{folder}: process {holder['pid']} on {holder['host']} works on it; stop it there")
            continue
        else:
            continue
        stopped.append(folder)
    slurm.cancel(jobs)
    if elsewhere:
        raise UserError("; ".join(elsewhere))
    return stopped


def _row(folder: Path, waiting: dict[str, slurm.State]) -> dict[str, Any]:
    said, job = _read(folder / "status.json"), _submission(folder).get("job")
    queued = waiting.get(job) if job else None
    state = _state(folder, said, queued)
    row: dict[str, Any] = {"run": folder.name, "state": state, "job": job, "requeues": said.get("requeues") or ""}
    if state == "running":
        row["node"] = said.get("node")
        steps = _read(folder / PROGRESS)
        if steps:
            row["done"] = f"{steps['done'] / max(1, steps['total']):.0%}"
            row["left"] = str(datetime.timedelta(seconds=round(steps["seconds_left"])))
    return row | _figures(folder)


def _state(folder: Path, said: dict[str, Any], queued: slurm.State | None) -> str:
    state = said.get("state", "not started")
    if state == "running" and lease.holder_of(folder) is None:
        state = "complete" if is_complete(folder) else "killed"
    if state in ("complete", "running") or queued is None:
        return str(state)
    if said:
        return "requeued"
    return f"pending ({queued.reason})" if queued.state == "PENDING" else queued.state.lower()


def _figures(folder: Path) -> dict[str, Any]:
    """Iteration, sparsity and accuracy, as far as there are any."""
    result = _read(folder / "result.json")
    if result:
        return {"sparsity": f"{1 - result['density']:.2%}", "accuracy": f"{result['accuracy']:.2%}"}
    if not (folder / "history.json").is_file():
        return {}
    history = read_json(folder / "history.json")
    last = history[-1]
    return {
        "iteration": f"{last['iteration']} of {read_config(folder)['iterations']}",
        "sparsity": f"{1 - last['density']:.2%}",
        "accuracy": f"{last['accuracy']:.2%}",
    }


def _submission(folder: Path) -> dict[str, Any]:
    return _read(folder / "job.json")


def _read(path: Path) -> dict[str, Any]:
    """A JSON file of a run, or nothing where it is not there yet."""
    return read_json(path) if path.is_file() else {}
