"""The process group of a job: one process a task, found through submitit, managed by Accelerate."""

import os
from pathlib import Path

import submitit
import torch
import torch.distributed
import torch.utils.deterministic
from accelerate import Accelerator

from autosparse.cluster.requeue import requeues
from autosparse.errors import UserError

_GROUP = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_STARTERS = {
    "SUBMITIT_EXECUTOR",
    "TORCHELASTIC_RUN_ID",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
}


def start(cpus: int | None = None) -> Accelerator:
    """Join the world of this job and return its `Accelerator`.

    Inside a submitit job of several tasks the process-group environment is exported first: without LOCAL_RANK every
    task would silently become a world of one, all of them writing one store. A process that nobody has started as one
    of several is a world of one, whatever the environment has left of another job.

    Args:
        cpus: threads for PyTorch; left as they are if None.

    Raises:
        UserError: the world is not as large as the job, or its processes do not find each other.
    """
    if cpus is not None:
        os.environ["OMP_NUM_THREADS"] = str(cpus)  # Accelerate would set one thread a process otherwise
        torch.set_num_threads(cpus)
    if not (_started_as_one_of_several() or torch.distributed.is_initialized()):
        for name in _GROUP:
            os.environ.pop(name, None)
    expected = int(os.environ.get("WORLD_SIZE", 1))
    if "SUBMITIT_EXECUTOR" in os.environ:
        job = submitit.JobEnvironment()
        expected = job.num_tasks
        if expected > 1:
            os.environ.update(
                RANK=str(job.global_rank),
                WORLD_SIZE=str(job.num_tasks),
                LOCAL_RANK=str(job.local_rank),
                LOCAL_WORLD_SIZE=str(job.num_tasks // job.num_nodes),
            )
            _join(job)
        # what a killed attempt was about to save, over which submitit would stumble
        Path(f"{job.paths.result_pickle}.save_tmp").unlink(missing_ok=True)
    cpu = not torch.cuda.is_available()
    if not cpu:
        _be_deterministic()
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]  # what `accelerate launch`, or a shell, says of precision and sharding changes the numbers
    try:
        accelerator = Accelerator(cpu=cpu, mixed_precision="no", gradient_accumulation_steps=1)
    except torch.distributed.DistError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"waited in vain for {expected} processes to meet at {where} (WORLD_SIZE, MASTER_ADDR, MASTER_PORT); "
            "start them all, or run this outside of torchrun, srun and mpirun"
        ) from error
    if accelerator.num_processes != expected:
        raise UserError(f"the job has {expected} tasks, but the process group has {accelerator.num_processes}")
    return accelerator


def _started_as_one_of_several() -> bool:
    """Whether submitit, torchrun (accelerate, too), srun or mpirun have started this process."""
    if not _STARTERS.isdisjoint(os.environ):
        return True
    # the shell of an salloc is a step of one task, and may well have a stale WORLD_SIZE
    return os.environ.get("SLURM_STEP_NUM_TASKS", "1") == os.environ.get("WORLD_SIZE")


def _join(job: submitit.JobEnvironment) -> None:
    """Make the process group, which Accelerate then finds."""
    from autosparse.cluster import rendezvous  # not for jobs of one process

    host = "127.0.0.1" if job.num_nodes == 1 else job.hostnames[0]
    store = rendezvous.meet(host, job.job_id, requeues(), job.global_rank == 0)
    os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(store.port))  # which Accelerate wants to see
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, store=store, rank=job.global_rank, world_size=job.num_tasks)


def finish(accelerator: Accelerator) -> None:
    """Leave the world together: a process that is gone too early can make another abort after its work is done."""
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _be_deterministic() -> None:
    """Let a run on a GPU that was killed end as one that was not, as far as PyTorch has deterministic algorithms."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    vars(torch.utils)["deterministic"].fill_uninitialized_memory = False  # it only finds bugs, and costs a write
