"""Where the processes of a job find each other: the first of a few ports that nobody else has.

Which ports these are follows from the job's id alone, so nothing need be written or agreed. The main process listens on
the first that is free. The others look at each in turn, until one answers with the name of this very attempt at the
job: another program, another job, or a dying process of the attempt before is passed over.
"""

import contextlib
import socket
import time
import zlib
from datetime import timedelta

from torch.distributed import TCPStore

from autosparse.errors import UserError

_PORTS = 8
_ANSWER = timedelta(seconds=2)  # what another program may take to say nothing
_TOGETHER = timedelta(minutes=10)  # between the first process and the last: imports from a slow file system


def ports(job_id: str) -> list[int]:
    """The ports that a job tries, in order; below those that the kernel hands out."""
    return [20000 + zlib.crc32(f"{job_id} {k}".encode()) % 10000 for k in range(_PORTS)]


def meet(host: str, job_id: str, attempt: str, main: bool) -> TCPStore:
    """The store that all processes of one attempt at a job share, for their process group.

    Args:
        host: of the main process.
        job_id: of Slurm, or whatever the processes of a job have in common.
        attempt: differs from the one before of the same job.
        main: whether this process is the one that the others look for.

    Raises:
        UserError: no port is free, or the main process is not there.
    """
    name = f"autosparse {job_id} {attempt}"
    return _listen(host, ports(job_id), name) if main else _look(host, ports(job_id), name)


def _listen(host: str, candidates: list[int], name: str) -> TCPStore:
    for port in candidates:
        with contextlib.suppress(RuntimeError):  # the port is taken
            store = TCPStore(host, port, is_master=True, wait_for_workers=False, timeout=_TOGETHER)
            store.set(name, "")
            return store
    raise UserError(f"none of the ports {' '.join(map(str, candidates))} is free on {host}")


def _look(host: str, candidates: list[int], name: str) -> TCPStore:
    end = time.monotonic() + _TOGETHER.total_seconds()
    while time.monotonic() < end:
        for port in candidates:
            with contextlib.suppress(OSError, RuntimeError):  # nobody listens, or somebody else
                socket.create_connection((host, port), _ANSWER.total_seconds()).close()  # refuses at once, unlike:
                store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=_ANSWER)
                if store.check([name]):
                    store.set_timeout(_TOGETHER)
                    return store
        time.sleep(0.1)
    raise UserError(f"no process of this job listens on {host} at any of the ports {' '.join(map(str, candidates))}")
