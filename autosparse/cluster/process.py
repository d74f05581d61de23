"""The processes of a job: how they start, find each other and end."""

import os
import pickle
import shlex
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Never

import submitit
import torch
import torch.distributed
import torch.utils.deterministic
from accelerate import Accelerator
from submitit.core.submission import submitit_main
from submitit.helpers import TorchDistributedEnvironment
from tqdm import tqdm

from autosparse.errors import UserError

HOLD_SIGNALS = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM}); "
    "work = 'from autosparse.cluster.process import main; main()'; "
    "words = ['-c', work] if sys.argv[2:4] == ['-m', 'submitit.core._submit'] else sys.argv[2:4]; "
    "os.execv(sys.executable, [sys.executable, sys.argv[1], *words, *sys.argv[4:]])"
)
"""First code of a job's process. It holds signals until `interruption.listening`, as a signal during the imports would
end the process, and runs `main` instead of submitit's program."""
PYTHON = f"{shlex.quote(sys.executable)} -ISc {shlex.quote(HOLD_SIGNALS)}"
"""The Python of submitit's jobs."""
_GROUP = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_STARTERS = {"SUBMITIT_EXECUTOR", "TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"}


def main() -> None:
    """Run the work that submitit has submitted and end the process."""
    _run_and_exit(submitit_main)


def run_forked(work: bytes, environment: Mapping[str, str], log: Path) -> None:
    """Run pickled work in a forked process and end the process.

    Args:
        work: pickled function without arguments.
        environment: mapping of all environment variables of the process.
        log: file to which standard output and standard error are appended.
    """
    os.environ.clear()
    os.environ.update(environment)
    with log.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    tqdm.set_lock(threading.RLock())  # Its own lock has a semaphore, which the end below would leave behind.
    _run_and_exit(lambda: pickle.loads(work)())


def _run_and_exit(work: Callable[[], object]) -> Never:
    """End the process when its work is done, even if threads of the user's are still alive."""
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # The disk may be full.
                stream.flush()
        os._exit(code)


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
    # Weights that decay to almost zero become denormal numbers, which slow CPUs down many times. OpenMP's threads
    # inherit the mode from the thread that starts them, so it is set before they start.
    torch.set_flush_denormal(True)
    if not (_is_one_of_several() or torch.distributed.is_initialized()):
        for name in _GROUP:
            os.environ.pop(name, None)
    if "SUBMITIT_EXECUTOR" in os.environ:
        job = submitit.JobEnvironment()
        if job.num_tasks > 1:
            group = TorchDistributedEnvironment()
            group.master_addr = "127.0.0.1" if job.num_nodes == 1 else group.master_addr
            group.export(set_cuda_visible_devices=False, overwrite=True)
        # A killed attempt may have left this file, at which submitit would fail.
        Path(f"{job.paths.result_pickle}.save_tmp").unlink(missing_ok=True)
    expected = int(os.environ.get("WORLD_SIZE", 1))
    cpu = not torch.cuda.is_available()
    if not cpu:
        _be_deterministic()
    # The precision and sharding that `accelerate launch` or a shell asks for would change the numbers.
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]
    try:
        accelerator = Accelerator(cpu=cpu, mixed_precision="no", gradient_accumulation_steps=1)
    except torch.distributed.DistError as error:
        where, said = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}", " ".join(str(error).split())
        raise UserError(
            f"{expected} processes did not meet at {where} (WORLD_SIZE, MASTER_ADDR, MASTER_PORT): {said}; start them "
            "all, or run this outside of torchrun, srun and mpirun; if the port is in use, run the same again"
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


def _is_one_of_several() -> bool:
    """Return True if submitit, torchrun (accelerate, too), srun or mpirun has started this process."""
    if not _STARTERS.isdisjoint(os.environ):
        return True
    # The shell of an salloc is a step of one task, and may well have a stale WORLD_SIZE.
    return os.environ.get("SLURM_STEP_NUM_TASKS", "1") == os.environ.get("WORLD_SIZE")


def _be_deterministic() -> None:
    """Let a killed run on a GPU end as an undisturbed one, as far as PyTorch has deterministic algorithms."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling memory only finds bugs, and costs a write.
    vars(torch.utils)["deterministic"].fill_uninitialized_memory = False
