"""Where the processes of a job find each other, whatever else listens on their machine.

The main process has its store on whatever port the kernel hands out, and says which to those who ask at the first free
one of a few ports. These follow from the job's id alone, so nothing need be written or agreed. The others ask at each
in turn, until one answers with the name of this very attempt at the job: another program, another job, or a dying
process of the attempt before is passed over.
"""

import contextlib
import socket
import threading
import time
import zlib
from datetime import timedelta

from torch.distributed import TCPStore

from autosparse.errors import UserError

_PORTS = 8
_ANSWER = 2.0  # seconds that others may take to say nothing
_TOGETHER = timedelta(minutes=10)  # between the first process and the last: imports from a slow file system


def ports(job_id: str) -> list[int]:
    """The ports that a job tries, in order; below those that the kernel hands out."""
    return [20000 + zlib.crc32(f"{job_id} {k}".encode()) % 10000 for k in range(_PORTS)]


def meet(host: str, job_id: str, attempt: int, main: bool) -> TCPStore:
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
    if not main:
        return TCPStore(host, _ask(host, ports(job_id), name), wait_for_workers=False, timeout=_TOGETHER)
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_TOGETHER)
    listener = _first_free(host, ports(job_id))
    threading.Thread(target=_answer, args=(listener, f"{name} {store.port}\n"), name="rendezvous", daemon=True).start()
    return store


def _first_free(host: str, candidates: list[int]) -> socket.socket:
    for port in candidates:
        with contextlib.suppress(OSError):
            return socket.create_server(("", port))
    raise UserError(f"none of the ports {' '.join(map(str, candidates))} is free on {host}")


def _answer(listener: socket.socket, text: str) -> None:
    while True:
        with contextlib.suppress(OSError), listener.accept()[0] as asking:
            asking.sendall(text.encode())


def _ask(host: str, candidates: list[int], name: str) -> int:
    end = time.monotonic() + _TOGETHER.total_seconds()
    while time.monotonic() < end:
        for port in candidates:
            # nobody listens, or somebody who says nothing, or no text
            with contextlib.suppress(OSError, UnicodeDecodeError):
                asked = socket.create_connection((host, port), _ANSWER)
                with asked, asked.makefile(encoding="ascii") as answer:
                    said, _, found = answer.readline(len(name) + 10).rpartition(" ")
                    if said == name:
                        return int(found)
        time.sleep(0.1)
    raise UserError(f"no process of this job listens on {host} at any of the ports {' '.join(map(str, candidates))}")
