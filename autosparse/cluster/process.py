"""The process group of a job: one process per task, found through submitit, managed by Accelerate.

The processes find each other whatever else listens on their machine. The main process has its store on any free port
and says which one at the first free of a few ports, which follow from the job's id alone. The others ask at each of
these in turn until one answers with the name of this attempt at the job; other programs, other jobs and a dying process
of the attempt before are passed over.
"""

import contextlib
import os
import socket
import threading
import time
import zlib
from datetime import timedelta
from pathlib import Path

import submitit
import torch
import torch.distributed
import torch.utils.deterministic
from accelerate import Accelerator
from torch.distributed import TCPStore

from autosparse.errors import UserError

_GROUP = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_STARTERS = {
    "SUBMITIT_EXECUTOR",
    "TORCHELASTIC_RUN_ID",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
}
_PORTS = 8
_ANSWER_TIMEOUT = 2.0  # seconds
_MEETING_TIMEOUT = timedelta(minutes=10)  # from the first process to the last: imports from a slow file system


def start(cpus: int | None = None) -> Accelerator:
    """Join the process group of this job and return its `Accelerator`.

    Inside a submitit job of several tasks the process-group environment is exported first: without LOCAL_RANK every
    task would silently become a group of one, all of them writing one store. A process that nobody has started as one
    of several is a group of one, whatever another job has left in the environment.

    Args:
        cpus: number of threads of PyTorch; None leaves it unchanged.

    Raises:
        UserError: the group is not as large as the job, or its processes do not find each other.
    """
    if cpus is not None:
        os.environ["OMP_NUM_THREADS"] = str(cpus)  # Otherwise Accelerate sets one thread per process.
        torch.set_num_threads(cpus)
    if not (_is_one_of_several() or torch.distributed.is_initialized()):
        for name in _GROUP:
            os.environ.pop(name, None)
    expected = int(os.environ.get("WORLD_SIZE", 1))
    if "SUBMITIT_EXECUTOR" in os.environ:
        job = submitit.JobEnvironment()
        expected = job.num_tasks
        if expected > 1:
            _join(job)
        # A killed attempt may have left this file, at which submitit would fail.
        Path(f"{job.paths.result_pickle}.save_tmp").unlink(missing_ok=True)
    cpu = not torch.cuda.is_available()
    if not cpu:
        _be_deterministic()
    # The precision and sharding that `accelerate launch` or a shell asks for would change the numbers.
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]
    try:
        accelerator = Accelerator(cpu=cpu, mixed_precision="no", gradient_accumulation_steps=1)
    except torch.distributed.DistError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"timed out: {expected} processes were to meet at {where} (WORLD_SIZE, MASTER_ADDR, MASTER_PORT); "
            "start them all, or run this outside of torchrun, srun and mpirun"
        ) from error
    if accelerator.num_processes != expected:
        raise UserError(f"the job has {expected} tasks, but the process group has {accelerator.num_processes}")
    return accelerator


def finish(accelerator: Accelerator) -> None:
    """Leave the group together: a process that leaves too early can make another abort after its work is done."""
    accelerator.wait_for_everyone()
    accelerator.end_training()


def requeues() -> int:
    """Return how often this job was queued again, by itself or by Slurm."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def ports(job_id: str) -> list[int]:
    """Return the ports at which the processes of a job meet; all are below those that the kernel hands out."""
    return [20000 + zlib.crc32(f"{job_id} {k}".encode()) % 10000 for k in range(_PORTS)]


def meet(host: str, job_id: str, attempt: int, main: bool) -> TCPStore:
    """Return the store that all processes of one attempt at a job share, for their process group.

    Args:
        host: host of the main process.
        job_id: id that the processes of the job have in common.
        attempt: number of the attempt at this job.
        main: whether this process is the one that the others look for.

    Raises:
        UserError: no port is free, or the main process does not answer.
    """
    name = f"autosparse {job_id} {attempt}"
    if not main:
        return TCPStore(host, _ask_port(host, ports(job_id), name), wait_for_workers=False, timeout=_MEETING_TIMEOUT)
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_MEETING_TIMEOUT)
    arguments = _first_free(host, ports(job_id)), f"{name} {store.port}\n"
    threading.Thread(target=_answer, args=arguments, name="rendezvous", daemon=True).start()
    return store


def _is_one_of_several() -> bool:
    """Return True if submitit, torchrun (accelerate, too), srun or mpirun has started this process."""
    if not _STARTERS.isdisjoint(os.environ):
        return True
    # The shell of an salloc is a step of one task, and may well have a stale WORLD_SIZE.
    return os.environ.get("SLURM_STEP_NUM_TASKS", "1") == os.environ.get("WORLD_SIZE")


def _join(job: submitit.JobEnvironment) -> None:
    """Make the process group, which Accelerate then finds."""
    host = "127.0.0.1" if job.num_nodes == 1 else job.hostnames[0]
    store = meet(host, job.job_id, requeues(), job.global_rank == 0)
    os.environ.update(
        RANK=str(job.global_rank),
        WORLD_SIZE=str(job.num_tasks),
        LOCAL_RANK=str(job.local_rank),
        LOCAL_WORLD_SIZE=str(job.num_tasks // job.num_nodes),
        MASTER_ADDR=host,
        MASTER_PORT=str(store.port),
    )
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, store=store, rank=job.global_rank, world_size=job.num_tasks)


def _first_free(host: str, candidates: list[int]) -> socket.socket:
    for port in candidates:
        with contextlib.suppress(OSError):
            return socket.create_server(("", port))
    raise UserError(f"none of the ports {' '.join(map(str, candidates))} is free on {host}")


def _answer(listener: socket.socket, text: str) -> None:
    while True:
        with contextlib.suppress(OSError), listener.accept()[0] as connection:
            connection.sendall(text.encode())


def _ask_port(host: str, candidates: list[int], name: str) -> int:
    end = time.monotonic() + _MEETING_TIMEOUT.total_seconds()
    while time.monotonic() < end:
        for port in candidates:
            # Nobody may listen, or a program that sends nothing, or no text.
            with contextlib.suppress(OSError, UnicodeDecodeError):
                connection = socket.create_connection((host, port), _ANSWER_TIMEOUT)
                with connection, connection.makefile(encoding="ascii") as answer:
                    answering, _, store_port = answer.readline(len(name) + 10).rpartition(" ")
                    if answering == name:
                        return int(store_port)
        time.sleep(0.1)
    raise UserError(f"no process of this job listens on {host} at any of the ports {' '.join(map(str, candidates))}")


def _be_deterministic() -> None:
    """Let a killed run on a GPU end as an undisturbed one, as far as PyTorch has deterministic algorithms."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling memory only finds bugs, and costs a write.
    vars(torch.utils)["deterministic"].fill_uninitialized_memory = False
