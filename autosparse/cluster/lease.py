"""One job at a time works on a run's folder: it holds a lease, which does not outlive it.

The lease is the file `.lease-N` with the highest N. A job that finds it released, or its holder dead, creates N + 1
exclusively: one of several jobs succeeds, on local disks, NFS and Lustre alike, without a lock manager or hard links.
An empty file belongs to a job that is about to fill it. The file of the highest N is never deleted, so a number is
never used twice.

A holder touches its file every few seconds. It counts as dead at once if its process on this machine has ended, or if
it was an earlier attempt of this Slurm job. Otherwise it counts as dead if it has not touched the file for two minutes,
by the clock of the file system, or its Slurm job has ended, and if it stays silent while it is watched: clocks jump,
and nodes are lost. In a copied folder, a lease whose holder works on the original on this machine does not count.
"""

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from autosparse.cluster import interruption, slurm
from autosparse.errors import UserError
from autosparse.files import naming

LEASE = ".lease-"
_BEAT = 10.0  # seconds between two touches
_STALE = 120.0  # seconds without a touch after which the holder counts as dead
_WATCHED = 1 / 5  # fraction of that time for which a holder is watched first
_UNNAMED: dict[str, Any] = {
    "host": None,
    "pid": None,
    "started": None,
    "job": None,
}  # has not filled its file yet, or it is damaged
_RELEASED = 1  # number of bytes of a released lease


@contextmanager
def lease(
    folder: Path, job_id: str | None, beat: float = _BEAT, stale: float = _STALE, *, wait: bool = False
) -> Iterator[None]:
    """Hold the lease of a run's folder for the length of the block.

    A holder that finds that it has lost the lease (it was suspended for minutes, say) asks itself to stop at the next
    step. A requeued job of Slurm takes over from itself. If another job works on the run, this one waits for it until
    it is asked to stop, or raises a `UserError` at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pid = os.getpid()
    mine = {"host": socket.gethostname(), "pid": pid, "started": start_of(pid), "job": job_id}
    path = _acquire(folder, mine | {"folder": str(folder.resolve())}, stale, wait)
    done = threading.Event()
    keeper = threading.Thread(target=_keep, args=(path, beat, done), name="lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        if _newest(folder) == path:
            os.truncate(path, _RELEASED)  # This works on a full disk, too.


def holder_of(folder: Path) -> dict[str, Any] | None:
    """Return the `host`, `pid` and `job` that work on a run; None if none do, as far as this machine can see."""
    newest = _newest(folder)
    holder = _holder(newest) if newest else None
    if not newest or not holder or holder == _UNNAMED:
        return None
    if holder["host"] == socket.gethostname():
        return None if _is_gone_from_here(holder, folder) else holder
    try:
        return holder if time.time() - newest.stat().st_mtime < _STALE else None
    except FileNotFoundError:
        return None


def _acquire(folder: Path, mine: dict[str, Any], stale: float, wait: bool) -> Path:
    while True:
        newest = _newest(folder)
        if newest is not None:
            holder = _holder(newest)
            if holder is None:
                continue  # superseded and deleted just now
            try:
                free = not holder or _is_dead(holder, mine, newest, stale)
            except FileNotFoundError:
                continue  # superseded during the look
            if not free:
                if holder == _UNNAMED or (wait and not interruption.received()):
                    time.sleep(0.05)
                    continue
                job = f" (job {holder['job']})" if holder["job"] else ""
                who = f"process {holder['pid']} on {holder['host']}{job}"
                raise UserError(f"{folder}: {who} works on this run; wait for it, or stop it and run this again")
        path = folder / f"{LEASE}{_number(newest) + 1 if newest else 1}"
        try:
            _create(path, json.dumps(mine))
        except FileExistsError:
            continue  # Another job was faster.
        if _newest(folder) == path:
            for passed in _leases(folder):
                if _number(passed) < _number(path):
                    passed.unlink(missing_ok=True)
            return path
        path.unlink(missing_ok=True)  # The number was passed long ago.


def _create(path: Path, text: str) -> None:
    """Make a lease; raise if it exists, or if there is no room for it."""
    with naming(path), path.open("xb", buffering=0) as file:
        try:
            file.write(text.encode())
        except OSError:
            path.unlink()
            raise


def _is_dead(holder: dict[str, Any], mine: dict[str, Any], path: Path, stale: float) -> bool:
    if holder["host"] == mine["host"]:
        return _is_gone_from_here(holder, path.parent)
    if holder["job"] is not None and holder["job"] == mine["job"]:
        return True
    with tempfile.TemporaryFile(dir=path.parent) as fresh:
        now = os.fstat(fresh.fileno()).st_mtime  # the clock of the file system
    touched = path.stat().st_mtime
    if now - touched <= stale and not _has_ended(holder["job"]):
        return False
    time.sleep(stale * _WATCHED)
    return path.stat().st_mtime == touched


def _has_ended(job_id: str | None) -> bool:
    """Return True if Slurm says so; the job may still work: it may be another user's, or on a lost node."""
    queue = slurm.queue() if job_id else None
    return queue is not None and job_id not in queue


def _is_gone_from_here(holder: dict[str, Any], folder: Path) -> bool:
    """Return True if a process of this machine has ended, or works on the folder of which this one is a copy."""
    original = Path(holder.get("folder", folder))
    return start_of(holder["pid"]) != holder["started"] or (original.is_dir() and not original.samefile(folder))


def _keep(path: Path, beat: float, done: threading.Event) -> None:
    while not done.wait(beat):
        with suppress(OSError):  # A file server may not answer for a moment.
            if _newest(path.parent) != path:
                interruption.lose(f"another job has taken over {path.parent}")
                return
            os.utime(path)


def _leases(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{LEASE}*") if path.name.removeprefix(LEASE).isdigit()]


def _newest(folder: Path) -> Path | None:
    return max(_leases(folder), key=_number, default=None)


def _number(path: Path) -> int:
    return int(path.name.removeprefix(LEASE))


def _holder(path: Path) -> dict[str, Any] | None:
    """Return the holder of a lease; empty if it was released; None if the file is gone."""
    try:
        text = path.read_text()
        return {} if len(text) == _RELEASED else dict(json.loads(text))
    except FileNotFoundError:
        return None
    except ValueError:
        return _UNNAMED


def start_of(pid: int) -> str | None:
    """Return when a process of this machine started, in the kernel's ticks; None if it has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else rest[18]
