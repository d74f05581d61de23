"""A job: one run, with a folder of its own, that can be run again until it is complete."""

import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from accelerate import Accelerator
from submitit.helpers import DelayedSubmission

from autosparse.cluster import process, record
from autosparse.errors import UserError
from autosparse.files import read_json, write_json

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

    @abstractmethod
    def is_complete(self) -> bool:
        """Whether the output is there and whole."""

    @abstractmethod
    def run(self, accelerator: Accelerator) -> None:
        """Do the work, on every process of the job."""


@dataclass(frozen=True)
class Task:
    """What is submitted: a job, and the threads of each of its processes. Checkpointable in submitit's sense: a job's
    state is in its folder, so going on is running again."""

    job: Job
    cpus: int | None

    def __call__(self) -> None:
        accelerator = process.start(self.cpus)
        folder, main = self.job.folder, accelerator.is_main_process
        if self.job.is_complete():
            return
        inside = submitit.JobEnvironment() if "SUBMITIT_EXECUTOR" in os.environ else None
        if main:
            record.write_config(folder, self.job.config())
            record.write_environment(folder, inside.job_id if inside else None)
            write_json(folder / "status.json", {"state": "running"})
        accelerator.wait_for_everyone()
        with _logging_to(folder / "logs" / f"rank{accelerator.process_index}.log", main):
            try:
                self.job.run(accelerator)
            except BaseException as error:
                log.error("%s", describe(error), exc_info=not isinstance(error, UserError))
                self._leave_error(error, accelerator)
                raise
        if main:
            write_json(folder / "status.json", {"state": "complete"})

    def _leave_error(self, error: BaseException, accelerator: Accelerator) -> None:
        """Say what went wrong where the launch script looks. Of several processes one may only have lost the others."""
        path = self.job.folder / "status.json"
        if accelerator.is_main_process or isinstance(error, UserError):
            status = read_json(path)
            if not (status["state"] == "failed" and status["user"]):
                user = isinstance(error, UserError)
                write_json(path, {"state": "failed", "error": describe(error), "user": user})

    def checkpoint(self) -> DelayedSubmission:
        """For submitit, when the job is preempted or its time is up: run the same again."""
        return DelayedSubmission(self)


def describe(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def failure(job: Job) -> str | None:
    """What the job's last attempt says went wrong, if it did."""
    path = job.folder / "status.json"
    status = read_json(path) if path.is_file() else {"state": "not started"}
    return None if job.is_complete() else status.get("error", f"it is {status['state']}")


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
