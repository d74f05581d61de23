"""One job at a time works on a run's folder: it holds a lease, which does not outlive it.

The lease is the file `.lease-N` with the highest N. A job that finds it released, or its holder dead, creates N + 1
exclusively: one of several jobs succeeds, on local disks, NFS and Lustre alike, without a lock manager or hard links.
An empty file belongs to a job that is about to fill it. The file of the highest N is never deleted, so a number is
never used twice.

A holder touches its file every few seconds. It counts as dead at once if its process on this machine has ended, or if
it was an earlier attempt of this Slurm job. Any other holder is watched, and counts as dead if it does not touch the
file for two minutes: no clocks are compared, and a job on a lost node may still work. In a copied folder, a lease whose
holder works on the original on this machine does not count.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from autosparse.cluster import interruption
from autosparse.cluster.records import say
from autosparse.errors import UserError
from autosparse.files import naming

LEASE = ".lease-"
_BEAT = 10.0  # seconds between two touches
_STALE = 120.0  # seconds without a touch after which the holder counts as dead
_RELEASED = 1  # number of bytes of a released lease


@contextmanager
def lease(
    folder: Path, job_id: str | None, beat: float = _BEAT, stale: float = _STALE, *, wait: bool = False
) -> Iterator[None]:
    """Hold the lease of a run's folder for the length of the block.

    A holder that finds that it has lost the lease (it was suspended for minutes, say) asks itself to stop at the next
    step. A requeued job of Slurm takes over from itself. If another job works on the run, this one waits for it until
    it is asked to stop, or raises a `UserError`.
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
    """Return the `host`, `pid` and `job` that work on a run; None if none do, as far as this machine can tell."""
    newest = _newest(folder)
    with suppress(FileNotFoundError):  # superseded just now
        if newest and (holder := _holder(newest)):
            here = holder["host"] == socket.gethostname()
            gone = _is_gone_from_here(holder, folder) if here else time.time() - newest.stat().st_mtime > _STALE
            return None if gone else holder
    return None


def _acquire(folder: Path, mine: dict[str, Any], stale: float, wait: bool) -> Path:
    watched = set[Path]()  # leases that a message has named
    while True:
        newest = _newest(folder)
        try:
            holder = _holder(newest) if newest else None
            if newest and holder is not None and not _is_dead(holder, mine, newest, stale, watched):
                if (wait or not holder) and not interruption.received():
                    time.sleep(0.05)
                    continue
                raise UserError(f"{_name(holder)} works on this run; wait for it, or stop it and run this again")
        except FileNotFoundError:
            continue  # superseded and deleted just now
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


def _name(holder: dict[str, Any]) -> str:
    job = f" (job {holder['job']})" if holder.get("job") else ""
    return f"process {holder['pid']} on {holder['host']}{job}" if holder else "a process without a name"


def _is_dead(holder: dict[str, Any], mine: dict[str, Any], path: Path, stale: float, watched: set[Path]) -> bool:
    if holder.get("host") == mine["host"]:
        return _is_gone_from_here(holder, path.parent)
    if holder.get("job") is not None and holder["job"] == mine["job"]:
        return True
    if path not in watched:
        say(f"{path.parent}: watching for up to {stale:.0f} seconds whether {_name(holder)} works on this run")
        watched.add(path)
    touched, end = path.stat().st_mtime, time.monotonic() + stale
    while time.monotonic() < end:
        time.sleep(0.1)
        if path.stat().st_mtime != touched or interruption.received():
            return False
    return True


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
    """Return the holder of a lease; None if it was released; empty if it has not filled its file, or it is damaged."""
    text = path.read_text()
    with suppress(ValueError):
        return None if len(text) == _RELEASED else dict(json.loads(text))
    return {}


def start_of(pid: int) -> str | None:
    """Return when a process of this machine started, in the kernel's ticks; None if it has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else rest[18]
