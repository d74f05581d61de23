"""One attempt at a job: the job itself, with its lease, its records and its log around it."""

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import submitit
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from autosparse.cluster import interruption, process, records, slurm
from autosparse.cluster.job import ERRORS, Job, describe
from autosparse.cluster.lease import lease
from autosparse.cluster.process import requeues
from autosparse.errors import UserError, counted
from autosparse.files import remove_unfinished, write_record

log = logging.getLogger("autosparse")

_REQUEUE_TIMEOUT = 300  # seconds until Slurm ends the processes of a job that it queues again
_RESUME = "the same command resumes it"


@dataclass(frozen=True)
class Attempt:
    """Runs a job in each process that Slurm or this machine starts for it.

    The state of a job is in its folder, so to resume it is to run it again.

    Attributes:
        job: job to run.
        cpus: number of threads of each process; None leaves PyTorch's default.
        max_requeues: how often the job may be queued again.
        forked: whether this process is one of `workers`, whose parent has Slurm queue the job again.
        gpu_fraction: fraction of its GPU's memory that the job may use.
    """

    job: Job
    cpus: int | None
    max_requeues: int = 0
    forked: bool = False
    gpu_fraction: float = 1.0

    def __call__(self) -> None:
        """Run the job unless it is complete, and record how the attempt ended.

        Raises:
            UserError: the job cannot run, or another process works on it.
            KeyboardInterrupt: the job was asked to stop, and does not queue itself again.
        """
        accelerator = process.start(self.cpus, self.gpu_fraction)
        job_id = submitit.JobEnvironment().job_id if "SUBMITIT_EXECUTOR" in os.environ else None
        # A command that was killed may have left its runs working.
        hold = lease(self.job.folder, job_id, wait=self.forked and not job_id)
        try:
            with interruption.listening(), hold if accelerator.is_main_process else nullcontext():
                self._run(accelerator, job_id)
        except interruption.InterruptedAtStep as stop:
            accelerator.wait_for_everyone()
            if interruption.lost():
                raise UserError(str(stop)) from None
            if self.forked or not job_id:
                raise KeyboardInterrupt from None
            requeue(self.max_requeues, accelerator.is_main_process)
        if self.forked or job_id:
            process.finish(accelerator)

    def _run(self, accelerator: Accelerator, job_id: str | None) -> None:
        """Run the job if it is not complete, and record the end in its folder."""
        job, folder = self.job, self.job.folder
        main, rank = accelerator.is_main_process, accelerator.process_index

        def write_status(state: str, **more: str) -> None:
            if main:
                place = {"node": socket.gethostname(), "requeues": requeues()}
                records.write_status(folder, state, job_id, **place, **more)

        if main:  # An earlier attempt may have had more processes. The broadcast below holds the others.
            for path in folder.glob(ERRORS):
                path.unlink(missing_ok=True)
            remove_unfinished(folder, but="job.json")  # The submitting command may be writing it.
        with _logging_to(folder, rank):
            try:
                if not broadcast_object_list([main and _is_complete(job)])[0]:
                    if job_id and requeues() > self.max_requeues:  # Slurm requeues lost jobs itself.
                        raise UserError(f"was queued again more than {self.max_requeues} times, see max-requeues")
                    if main:
                        records.write_config(job)
                        records.write_environment(folder, job_id)
                    write_status("running")
                    log.info("on %s with %s", accelerator.device, counted(torch.get_num_threads(), "thread"))
                    accelerator.wait_for_everyone()
                    _work(job, accelerator)
            except interruption.InterruptedAtStep as stop:
                log.info("stopped at a step, everything saved: %s", stop)
                if not interruption.lost():
                    write_status("interrupted", why=str(stop))
                raise
            except BaseException as error:
                user = isinstance(error, UserError)
                log.error("%s", describe(error), exc_info=not user)
                write_record(folder / "logs" / f"rank{rank}.error.json", {"error": describe(error), "user": user})
                write_status("failed", why=describe(error))
                raise
            write_status("complete")


def _work(job: Job, accelerator: Accelerator) -> None:
    try:
        job.run(accelerator)
    except SystemExit as stop:  # Slurm would take the job of sys.exit(0) for a complete one.
        error = RuntimeError(f"sys.exit({stop.code!r}) was called before the run was complete")
        raise error.with_traceback(stop.__traceback__) from None


def _is_complete(job: Job) -> bool:
    """Return True if nothing is left to do; the input of a job may have appeared only after its submission."""
    if difference := records.config_difference(job):
        raise UserError(difference)
    return job.is_complete()


def requeue(most: int, main: bool) -> None:
    """Have Slurm end this job and start it again; all of its processes call this, and it does not return.

    A canceled job is not queued again: it gets the signal of a preemption, but its state differs.

    Args:
        most: how often a job may be requeued.
        main: whether this process is the one that asks Slurm.

    Raises:
        UserError: the job was requeued as often as it may be, or Slurm refuses.
    """
    if main:
        if requeues() >= most:
            raise UserError(f"stopped by Slurm after {requeues()} requeues (max-requeues); {_RESUME}")
        if refused := slurm.requeue(os.environ["SLURM_JOB_ID"]):
            raise UserError(f"stopped by Slurm, which refuses to requeue ({refused}); {_RESUME}")
    time.sleep(_REQUEUE_TIMEOUT)  # If a process ended by itself, the job would count as ended.
    raise UserError(f"stopped by Slurm, but not requeued; {_RESUME}")


class _LogFile(logging.FileHandler):
    """A log that a full disk does not stop, and whose errors do not fill standard error."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@contextmanager
def _logging_to(folder: Path, rank: int) -> Iterator[None]:
    """Write log records to a file in the run's folder, and in the main process also to standard error."""
    path = folder / "logs" / f"rank{rank}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _LogFile(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(logging.Formatter("%(message)s"))
    console.addFilter(lambda record: record.levelno < logging.ERROR)  # The launching command reports errors.
    handlers: list[logging.Handler] = [file] if rank else [file, console]
    for handler in handlers:
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
        with suppress(OSError):  # It tries once more to write the rest.
            file.close()
