"""An attempt at a job: what is submitted, and what happens around the work."""

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
from autosparse.files import write_record

log = logging.getLogger("autosparse")


@dataclass(frozen=True)
class Attempt:
    """What is submitted: a job, the threads of each of its processes, and how often it may be requeued.

    A job's state is in its folder, so going on is running again.
    """

    job: Job
    cpus: int | None
    max_requeues: int = 0

    def __call__(self) -> None:
        accelerator = process.start(self.cpus)
        inside = submitit.JobEnvironment() if "SUBMITIT_EXECUTOR" in os.environ else None
        on_slurm = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
        job_id = inside.job_id if inside and on_slurm else None
        main = accelerator.is_main_process
        try:
            with interruption.listening(), lease(self.job.folder, job_id) if main else nullcontext():
                self._attempt(accelerator, job_id)
        except interruption.InterruptedAtStep as stop:
            accelerator.wait_for_everyone()
            if interruption.lost():
                raise UserError(str(stop)) from None
            if not on_slurm:
                raise KeyboardInterrupt from None
            requeue(self.max_requeues, main)
        if inside:
            process.finish(accelerator)

    def _attempt(self, accelerator: Accelerator, job_id: str | None) -> None:
        folder, main, rank = self.job.folder, accelerator.is_main_process, accelerator.process_index
        if main:  # an earlier attempt may have had more processes; the others are held by the broadcast below
            for path in folder.glob(ERRORS):
                path.unlink(missing_ok=True)
        with _logging_to(folder / "logs" / f"rank{rank}.log", main):
            try:
                if not broadcast_object_list([main and self._is_complete()])[0]:
                    if job_id and requeues() > self.max_requeues:  # by Slurm itself: lost nodes, preemptions
                        raise UserError(f"was queued again more than {self.max_requeues} times, see max-requeues")
                    if main:
                        provenance.write_config(self.job)
                        provenance.write_environment(folder, job_id)
                        self._say("running", job_id)
                    accelerator.wait_for_everyone()
                    self.job.run(accelerator)
            except interruption.InterruptedAtStep as stop:
                log.info("stopped at a step, everything saved: %s", stop)
                if main and not interruption.lost():
                    self._say("interrupted", job_id, why=str(stop))
                raise
            except BaseException as error:
                user = isinstance(error, UserError)
                log.error("%s", describe(error), exc_info=not user)
                write_record(folder / "logs" / f"rank{rank}.error.json", {"error": describe(error), "user": user})
                if main:
                    self._say("failed", job_id, why=describe(error))
                raise
            if main:
                self._say("complete", job_id)

    def _is_complete(self) -> bool:
        """Whether there is nothing to do; of a job that was submitted before its input was there, only now."""
        if difference := provenance.config_difference(self.job):
            raise UserError(difference)
        return self.job.is_complete()

    def _say(self, state: str, job_id: str | None, **more: str) -> None:
        place = {"node": socket.gethostname(), "requeues": requeues()}
        provenance.write_status(self.job.folder, state, job_id, **place, **more)


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
def _logging_to(path: Path, main: bool) -> Iterator[None]:
    """Log to a file, and the main process also to standard error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _File(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    console = logging.StreamHandler(sys.stderr)
    console.addFilter(lambda record: record.levelno < logging.ERROR)  # errors are reported by who started the job
    handlers: list[logging.Handler] = [file, console] if main else [file]
    for handler in handlers:
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
        file.close()
