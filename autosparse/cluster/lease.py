"""A run's folder is worked on by one job at a time: a lease that a dead job cannot hold.

The lease is the file `.lease-N` with the highest N. Whoever finds it released, or its holder dead, makes N + 1 by a
hard link, which is atomic on local disks, NFS and Lustre alike and needs no lock manager: of several, one succeeds.
Where a file system has no hard links, the file is created exclusively and filled then: an empty one is somebody's who
is about to say who they are. The file of the highest N is never deleted, so a number that was passed can be told from a
new one.

A holder touches its file every few seconds. It counts as dead at once if its process on this machine has ended, or if
it was an earlier attempt of this Slurm job. Otherwise it counts as dead if it has not touched the file for two minutes,
by the clock of the file system, or its Slurm job has ended, and if it stays silent while it is watched: clocks jump,
and nodes are lost. In a copied folder, a lease whose holder works on the original on this machine does not count.
"""

import json
import os
import secrets
import socket
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
_STALE = 120.0  # seconds without one, after which the holder is dead
_WATCHED = 1 / 5  # of that time: it is watched for so long before it is believed to be
_SOMEBODY: dict[str, Any] = {"host": None, "pid": None, "started": None, "job": None}  # who has not yet said who
_RELEASED = 1  # bytes of its file that a holder leaves


@contextmanager
def lease(
    folder: Path, job_id: str | None, beat: float = _BEAT, stale: float = _STALE, *, wait: bool = False
) -> Iterator[None]:
    """Hold the lease of a run's folder for the length of the block.

    A holder that finds that it has lost the lease (it was suspended for minutes, say) asks itself to stop at the next
    step.

    Args:
        folder: of the run.
        job_id: of Slurm, if this is a job there: one that was requeued takes over from itself.
        beat, stale: seconds, see above.
        wait: wait for another job that works on the run, until this process is asked to stop.

    Raises:
        UserError: another job works on the run (names it).
    """
    folder.mkdir(parents=True, exist_ok=True)
    mine = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _start_of(os.getpid()),
        "job": job_id,
        "folder": str(folder.resolve()),
    }
    path = _acquire(folder, mine, stale, wait)
    done = threading.Event()
    keeper = threading.Thread(target=_keep, args=(path, beat, done), name="lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        if _newest(folder) == path:
            os.truncate(path, _RELEASED)  # which a full disk does not hinder


def holder_of(folder: Path) -> dict[str, Any] | None:
    """Who works on a run: `host`, `pid` and `job`; None if nobody does, as far as can be seen from here."""
    newest = _newest(folder)
    holder = _holder(newest) if newest else None
    if not newest or not holder or holder == _SOMEBODY:
        return None
    if holder["host"] == socket.gethostname():
        return None if _start_of(holder["pid"]) != holder["started"] or _is_elsewhere(holder, folder) else holder
    try:
        return holder if time.time() - newest.stat().st_mtime < _STALE else None
    except FileNotFoundError:
        return None


def _acquire(folder: Path, mine: dict[str, Any], stale: float, wait: bool) -> Path:
    said = json.dumps(mine)
    while True:
        newest = _newest(folder)
        if newest is not None:
            holder = _holder(newest)
            if holder is None:
                continue  # superseded and deleted just now
            try:
                free = not holder or _is_gone(holder, mine, newest, stale)
            except FileNotFoundError:
                continue  # superseded while it was looked at
            if not free:
                if holder == _SOMEBODY or (wait and not interruption.received()):
                    time.sleep(0.05)
                    continue
                who = f"process {holder['pid']} on {holder['host']}"
                job = f" (job {holder['job']})" if holder["job"] else ""
                raise UserError(f"{folder}: {who}{job} works on this run; wait for it, or stop it and run this again")
        path = folder / f"{LEASE}{_number(newest) + 1 if newest else 1}"
        try:
            _publish(path, said)
        except FileExistsError:
            continue  # somebody else was faster
        if _newest(folder) == path:
            for passed in _leases(folder):
                if _number(passed) < _number(path):
                    passed.unlink(missing_ok=True)
            return path
        path.unlink(missing_ok=True)  # a number that was passed long ago


@contextmanager
def _temporary(folder: Path, text: str) -> Iterator[Path]:
    """A new file beside the leases, for a moment only: who is killed meanwhile leaves it."""
    path = folder / f"{LEASE}{secrets.token_hex(8)}.tmp"
    try:
        with naming(folder):
            path.write_text(text)
        yield path
    finally:
        with suppress(OSError):  # a read-only file system refuses this even where there is none
            path.unlink(missing_ok=True)


def _publish(path: Path, said: str) -> None:
    """Make a lease, which must not be there.

    Raises:
        FileExistsError: it is there.
    """
    with _temporary(path.parent, said) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # no hard links on this file system; whatever else it is, this meets it too
            with naming(path), path.open("x") as file:
                file.write(said)


def _is_gone(holder: dict[str, Any], mine: dict[str, Any], path: Path, stale: float) -> bool:
    if holder["host"] == mine["host"]:
        return _start_of(holder["pid"]) != holder["started"] or _is_elsewhere(holder, path.parent)
    if holder["job"] is not None and holder["job"] == mine["job"]:
        return True
    with _temporary(path.parent, "") as fresh:
        now = fresh.stat().st_mtime  # by the clock of the file system
    touched = path.stat().st_mtime
    if now - touched <= stale and not _has_ended(holder["job"]):
        return False
    time.sleep(stale * _WATCHED)
    return path.stat().st_mtime == touched


def _has_ended(job_id: str | None) -> bool:
    """Whether Slurm says so of a job, which may be at work all the same: another user's, or one on a lost node."""
    queue = slurm.queue() if job_id else None
    return queue is not None and job_id not in queue


def _is_elsewhere(holder: dict[str, Any], folder: Path) -> bool:
    """Whether a process of this machine works on the folder that this one is a copy of."""
    there = Path(holder.get("folder", folder))
    return there.is_dir() and not there.samefile(folder)


def _keep(path: Path, beat: float, done: threading.Event) -> None:
    while not done.wait(beat):
        try:
            if _newest(path.parent) != path:
                interruption.lose(f"another job has taken over {path.parent}")
                return
            os.utime(path)
        except OSError:  # a file server that is away for a moment
            continue


def _leases(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{LEASE}*") if path.name.removeprefix(LEASE).isdigit()]


def _newest(folder: Path) -> Path | None:
    return max(_leases(folder), key=_number, default=None)


def _number(path: Path) -> int:
    return int(path.name.removeprefix(LEASE))


def _holder(path: Path) -> dict[str, Any] | None:
    """Who holds a lease: empty if it was released, or a crash left it so; None if the file is gone."""
    try:
        text = path.read_text()
        found: dict[str, Any] = json.loads(text) if text else _SOMEBODY
        return found
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def _start_of(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's ticks; None if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
