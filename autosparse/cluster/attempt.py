"""What is submitted for a job: the job itself, with its lease, its records and its log around it."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import submitit
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from autosparse.cluster import interruption, process, provenance
from autosparse.cluster.job import ERRORS, Job, describe
from autosparse.cluster.lease import lease
from autosparse.cluster.requeue import requeue, requeues
from autosparse.errors import UserError
from autosparse.files import remove_unfinished, write_record

log = logging.getLogger("autosparse")


@dataclass(frozen=True)
class Attempt:
    """Runs a job in each process that Slurm or this machine starts for it.

    The state of a job is in its folder, so to resume it is to run it again.

    Attributes:
        job: the job.
        cpus: threads of each process; None leaves PyTorch's default.
        max_requeues: how often the job may be queued again.
    """

    job: Job
    cpus: int | None
    max_requeues: int = 0

    def __call__(self) -> None:
        """Run the job unless it is complete, and record how that ended.

        Raises:
            UserError: the job cannot run, or another process works on it.
            KeyboardInterrupt: it was asked to stop, outside of Slurm, where it is queued again.
        """
        accelerator = process.start(self.cpus)
        executor = os.environ.get("SUBMITIT_EXECUTOR")
        job_id = submitit.JobEnvironment().job_id if executor == "slurm" else None
        # An earlier command that was killed may have left its job behind.
        hold = lease(self.job.folder, job_id, wait=executor == "local")
        try:
            with interruption.listening(), hold if accelerator.is_main_process else nullcontext():
                self._run(accelerator, job_id)
        except interruption.InterruptedAtStep as stop:
            accelerator.wait_for_everyone()
            if interruption.lost():
                raise UserError(str(stop)) from None
            if executor != "slurm":
                raise KeyboardInterrupt from None
            requeue(self.max_requeues, accelerator.is_main_process)
        if executor:
            process.finish(accelerator)

    def _run(self, accelerator: Accelerator, job_id: str | None) -> None:
        """Run the job if there is anything to do, and record the end in its folder."""
        job, folder = self.job, self.job.folder
        main, rank = accelerator.is_main_process, accelerator.process_index
        if main:  # an earlier attempt may have had more processes; the others are held by the broadcast below
            for path in folder.glob(ERRORS):
                path.unlink(missing_ok=True)
            remove_unfinished(folder, but="job.json")  # the submitting command may be writing it now
        with _logging_to(folder, rank):
            try:
                if not broadcast_object_list([main and _is_complete(job)])[0]:
                    if job_id and requeues() > self.max_requeues:  # by Slurm itself: lost nodes, preemptions
                        raise UserError(f"was queued again more than {self.max_requeues} times, see max-requeues")
                    if main:
                        provenance.write_config(job)
                        provenance.write_environment(folder, job_id)
                        _write_status(folder, "running", job_id)
                    accelerator.wait_for_everyone()
                    _work(job, accelerator)
            except interruption.InterruptedAtStep as stop:
                log.info("stopped at a step, everything saved: %s", stop)
                if main and not interruption.lost():
                    _write_status(folder, "interrupted", job_id, why=str(stop))
                raise
            except BaseException as error:
                user = isinstance(error, UserError)
                log.error("%s", describe(error), exc_info=not user)
                write_record(folder / "logs" / f"rank{rank}.error.json", {"error": describe(error), "user": user})
                if main:
                    _write_status(folder, "failed", job_id, why=describe(error))
                raise
            if main:
                _write_status(folder, "complete", job_id)


def _work(job: Job, accelerator: Accelerator) -> None:
    try:
        job.run(accelerator)
    except SystemExit as stop:  # Slurm would take the job of sys.exit(0) for a complete one.
        error = RuntimeError(f"sys.exit({stop.code!r}) was called before the run was complete")
        raise error.with_traceback(stop.__traceback__) from None


def _is_complete(job: Job) -> bool:
    """Return True if there is nothing to do; the input of a job may appear only after its submission."""
    if difference := provenance.config_difference(job):
        raise UserError(difference)
    return job.is_complete()


def _write_status(folder: Path, state: str, job_id: str | None, **more: str) -> None:
    place = {"node": socket.gethostname(), "requeues": requeues()}
    provenance.write_status(folder, state, job_id, **place, **more)


class _File(logging.FileHandler):
    """A log that reports a full disk once, in one line, and lets the work go on."""

    _full = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._full:
            self._full = True
            with suppress(OSError):  # standard error may lie on the same disk
                print(f"{error.strerror}: {self.baseFilename}; going on without this log", file=sys.stderr)

    def close(self) -> None:
        with suppress(OSError):  # what there was no room for is tried once more
            super().close()


@contextmanager
def _logging_to(folder: Path, rank: int) -> Iterator[None]:
    """Write log records to a file in the run's folder, and in the main process also to standard error."""
    path = folder / "logs" / f"rank{rank}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _File(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(logging.Formatter("%(message)s"))
    console.addFilter(lambda record: record.levelno < logging.ERROR)  # errors are reported by who started the job
    handlers: list[logging.Handler] = [file] if rank else [file, console]
    for handler in handlers:
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
        file.close()
