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
        error_path = folder / "logs" / f"rank{accelerator.process_index}.error.json"
        error_path.unlink(missing_ok=True)
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
                user = isinstance(error, UserError)
                log.error("%s", describe(error), exc_info=not user)
                write_json(error_path, {"error": describe(error), "user": user})
                if main:
                    write_json(folder / "status.json", {"state": "failed"})
                raise
        if main:
            write_json(folder / "status.json", {"state": "complete"})
        if inside:
            process.finish(accelerator)

    def checkpoint(self) -> DelayedSubmission:
        """For submitit, when the job is preempted or its time is up: run the same again."""
        return DelayedSubmission(self)


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
    errors = [read_json(path) for path in sorted(job.folder.glob("logs/rank*.error.json"))]
    for error in sorted(errors, key=lambda error: not error["user"]):
        return error["error"]
    status = job.folder / "status.json"
    return f"it is {read_json(status)['state']}" if status.is_file() else "it was not started"


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
