import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from autosparse.cluster import interruption
from autosparse.cluster.lease import LEASE, lease, start_of
from autosparse.errors import UserError


def holder(folder: Path, **changes: object) -> None:
    """Leave the lease of somebody else, on another machine if nothing else is said."""
    there = {"host": "node7", "pid": 1, "started": "1", "job": None, **changes}
    newest(folder, 1).write_text(json.dumps(there))


def newest(folder: Path, ahead: int = 0) -> Path:
    """The lease that counts, or the one `ahead` of it."""
    numbers = [int(path.name.removeprefix(LEASE)) for path in folder.glob(f"{LEASE}*")]
    return folder / f"{LEASE}{max(numbers, default=0) + ahead}"


def who(folder: Path) -> dict[str, object]:
    return json.loads(newest(folder).read_text())


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    with lease(tmp_path, None):
        with pytest.raises(UserError, match=rf"^process {os.getpid()} on {socket.gethostname()} works on this run"):
            lease(tmp_path, None).__enter__()
        assert who(tmp_path)["pid"] == os.getpid()
    with lease(tmp_path, "17_3"):
        assert who(tmp_path)["job"] == "17_3"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["{"]


def test_waiting_job_stops_when_asked(tmp_path: Path) -> None:
    first = lease(tmp_path, "1")
    first.__enter__()
    asked = threading.Timer(0.1, interruption.interrupt, ["enough"])
    asked.start()
    with pytest.raises(UserError, match=r"\(job 1\) works on this run"):
        lease(tmp_path, "2", wait=True).__enter__()
    asked.join()
    interruption._received = None
    threading.Timer(0.1, first.__exit__, [None, None, None]).start()
    with lease(tmp_path, "2", wait=True):
        assert who(tmp_path)["job"] == "2"


def test_killed_process_loses_its_lease(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
from autosparse.cluster.lease import lease
lease(Path({str(tmp_path)!r}), None).__enter__()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert newest(tmp_path).exists()
    with lease(tmp_path, None):
        assert who(tmp_path)["pid"] == os.getpid()


def test_holder_on_another_machine_counts_until_it_is_silent(tmp_path: Path) -> None:
    holder(tmp_path, job="5_1")
    beats = threading.Timer(0.3, lambda: os.utime(newest(tmp_path)))
    beats.start()
    with pytest.raises(UserError, match=r"process 1 on node7 \(job 5_1\) works on this run"):
        lease(tmp_path, "5_2").__enter__()
    beats.join()
    later = time.time() + 3600  # of a clock that is ahead
    os.utime(newest(tmp_path), (later, later))
    with lease(tmp_path, "5_2", stale=1):
        assert who(tmp_path)["job"] == "5_2"


def test_requeued_job_takes_over_from_itself(tmp_path: Path) -> None:
    holder(tmp_path, job="5_1")
    with lease(tmp_path, "5_1"):
        assert who(tmp_path)["host"] != "node7"


def test_empty_lease_counts_until_it_is_stale(tmp_path: Path) -> None:
    newest(tmp_path, 1).touch()
    there = {"host": socket.gethostname(), "pid": os.getpid(), "started": start_of(os.getpid()), "job": None}
    filling = threading.Timer(0.2, lambda: newest(tmp_path).write_text(json.dumps(there)))
    filling.start()
    with pytest.raises(UserError, match=f"process {os.getpid()} on .* works on this run"):
        lease(tmp_path, None).__enter__()
    filling.join()
    newest(tmp_path).write_text("")
    with lease(tmp_path, None, stale=1):
        assert who(tmp_path)["pid"] == os.getpid()


def test_holder_touches_its_lease_and_notices_its_loss(tmp_path: Path) -> None:
    with interruption.listening(), lease(tmp_path, None, beat=0.01):
        os.utime(newest(tmp_path), (0, 0))
        until(lambda: newest(tmp_path).stat().st_mtime > 0)
        holder(tmp_path)
        until(lambda: interruption.received() is not None)
        assert interruption.received() == f"another job has taken over {tmp_path}"
    assert who(tmp_path)["host"] == "node7"


def test_one_of_many_takes_over_from_a_dead_holder(tmp_path: Path) -> None:
    for _ in range(20):
        holder(tmp_path, host=socket.gethostname(), pid=os.getpid(), started="1")
        inside, refused, barrier = [], [], threading.Barrier(8)

        def compete(inside=inside, refused=refused, barrier=barrier) -> None:
            barrier.wait()
            held = lease(tmp_path, None)
            try:
                held.__enter__()
            except UserError:
                refused.append(1)
                barrier.wait()
            else:
                inside.append(1)
                barrier.wait()
                held.__exit__(None, None, None)

        threads = [threading.Thread(target=compete) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(inside), len(refused)) == (1, 7)


def until(what) -> None:
    end = time.monotonic() + 600
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)
