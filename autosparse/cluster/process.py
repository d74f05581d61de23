"""The process group of a job: one process per task, found through submitit, managed by Accelerate."""

import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import submitit
import torch
import torch.distributed
import torch.utils.deterministic
from accelerate import Accelerator
from torch.distributed import TCPStore

from autosparse.errors import UserError
from autosparse.files import write_text

_GROUP = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_STARTERS = {
    "SUBMITIT_EXECUTOR",
    "TORCHELASTIC_RUN_ID",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
}
_MEETING_TIMEOUT = timedelta(minutes=10)  # from the first process to the last: imports from a slow file system


def start(cpus: int | None = None, gpu_fraction: float = 1.0) -> Accelerator:
    """Join the process group of this job and return its `Accelerator`.

    Inside a submitit job of several tasks the process-group environment is exported first: without LOCAL_RANK every
    task would silently become a group of one, all of them writing one store. A process that nobody has started as one
    of several is a group of one, whatever another job has left in the environment.

    Args:
        cpus: number of threads of PyTorch, unless OMP_NUM_THREADS says it; None leaves it unchanged.
        gpu_fraction: fraction of the GPU's memory that this process may use.

    Raises:
        UserError: the group is not as large as the job, or its processes do not find each other.
    """
    if cpus is not None:
        threads = os.environ.setdefault("OMP_NUM_THREADS", str(cpus))  # Otherwise Accelerate sets one per process.
        torch.set_num_threads(int(threads.partition(",")[0]))  # OpenMP takes one number for each nested level.
    # Weights that decay to almost zero would be denormal numbers, which slow CPUs down to a tenth.
    torch.set_flush_denormal(True)
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
    if gpu_fraction < 1.0 and not cpu:
        torch.cuda.set_per_process_memory_fraction(gpu_fraction)
    return accelerator


def finish(accelerator: Accelerator) -> None:
    """Leave the group together: a process that leaves too early can make another abort after its work is done."""
    accelerator.wait_for_everyone()
    accelerator.end_training()


def requeues() -> int:
    """Return how often this job was queued again, by itself or by Slurm."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def meet(host: str, path: Path, main: bool) -> TCPStore:
    """Return the store by which the processes of a job find each other.

    The main process takes any free port and writes it to a file, which must be new for each attempt at a job.

    Args:
        host: host of the main process.
        path: file of the port, visible on all nodes.
        main: whether this is the main process.

    Raises:
        UserError: the main process does not write the file.
    """
    if main:
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_MEETING_TIMEOUT)
        write_text(path, str(store.port))
        return store
    end = time.monotonic() + _MEETING_TIMEOUT.total_seconds()
    while not path.exists():
        if time.monotonic() > end:
            raise UserError(f"the first process of this job, on {host}, has not written {path}")
        time.sleep(0.2)
        with tempfile.TemporaryFile(dir=path.parent):
            pass  # A client of NFS that has changed a folder reads it anew.
    return TCPStore(host, int(path.read_text()), wait_for_workers=False, timeout=_MEETING_TIMEOUT)


def _is_one_of_several() -> bool:
    """Return True if submitit, torchrun (accelerate, too), srun or mpirun has started this process."""
    if not _STARTERS.isdisjoint(os.environ):
        return True
    # The shell of an salloc is a step of one task, and may well have a stale WORLD_SIZE.
    return os.environ.get("SLURM_STEP_NUM_TASKS", "1") == os.environ.get("WORLD_SIZE")


def _join(job: submitit.JobEnvironment) -> None:
    """Make the process group, which Accelerate then finds."""
    host = "127.0.0.1" if job.num_nodes == 1 else job.hostnames[0]
    store = meet(host, job.paths.folder / f"port{requeues()}", job.global_rank == 0)
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


def _be_deterministic() -> None:
    """Let a killed run on a GPU end as an undisturbed one, as far as PyTorch has deterministic algorithms."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling memory only finds bugs, and costs a write.
    vars(torch.utils)["deterministic"].fill_uninitialized_memory = False
