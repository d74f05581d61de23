"""A job: one run, with a folder of its own, that can be run again until it is complete."""

import logging
import os
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from autosparse.cluster import interruption, process, provenance
from autosparse.cluster.lease import lease
from autosparse.cluster.requeue import requeue, requeues
from autosparse.errors import UserError
from autosparse.files import read_json, write_json

_ERRORS = "logs/rank*.error.json"
log = logging.getLogger("autosparse")


class Job(ABC):
    """One run. Running it again resumes it; running it when complete does nothing."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The run's folder; its name says what the run is."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The resolved configuration, YAML values; two runs with the same configuration are the same run."""

    def missing(self) -> str | None:
        """Which input is not there yet, in one line; the others of its methods are called when none is missing."""
        return None

    @abstractmethod
    def is_complete(self) -> bool:
        """Whether the output is there and whole."""

    @abstractmethod
    def run(self, accelerator: Accelerator) -> None:
        """Do the work, on every process of the job."""


@dataclass(frozen=True)
class Task:
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
            for path in folder.glob(_ERRORS):
                path.unlink(missing_ok=True)
        with _logging_to(folder / "logs" / f"rank{rank}.log", main):
            try:
                if not broadcast_object_list([main and self._is_complete()])[0]:
                    if job_id and requeues() > self.max_requeues:  # by Slurm itself: lost nodes, preemptions
                        raise UserError(f"was queued again more than --max-requeues {self.max_requeues} times")
                    if main:
                        provenance.write_config(folder, self.job.config())
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
                write_json(folder / "logs" / f"rank{rank}.error.json", {"error": describe(error), "user": user})
                if main:
                    self._say("failed", job_id, why=describe(error))
                raise
            if main:
                self._say("complete", job_id)

    def _is_complete(self) -> bool:
        """Whether there is nothing to do; of a job that was submitted before its input was there, only now."""
        if difference := provenance.config_difference(self.job.folder, self.job.config()):
            raise UserError(difference)
        return self.job.is_complete()

    def _say(self, state: str, job_id: str | None, **more: str) -> None:
        place = {"job": job_id, "node": socket.gethostname(), "requeues": requeues()}
        write_json(self.job.folder / "status.json", {"state": state, **place, **more})


def describe(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def failure(job: Job) -> str | None:
    """What the job's last attempt says went wrong, if it did.

    Of several processes, one that failed by itself rather than by losing the others.
    """
    try:
        if job.is_complete():
            return None
    except UserError as damaged:
        return describe(damaged)
    errors = [read_json(path) for path in sorted(job.folder.glob(_ERRORS))]
    for error in sorted(errors, key=lambda error: not error["user"]):
        return error["error"]
    status = job.folder / "status.json"
    if not status.is_file():
        return "it was not started"
    state = read_json(status)["state"]
    return "it was killed" if state == "running" else f"it is {state}"


@contextmanager
def _logging_to(path: Path, main: bool) -> Iterator[None]:
    """Log to a file, and the main process also to standard error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path)
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
