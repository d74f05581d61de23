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
        with _logging_to(folder / "logs" / f"rank{accelerator.process_index}.log"):
            try:
                self.job.run(accelerator)
            except BaseException as error:
                if main:
                    write_json(folder / "status.json", {"state": "failed", "error": describe(error)})
                if not isinstance(error, UserError):
                    log.exception("the run failed")
                raise
        if main:
            write_json(folder / "status.json", {"state": "complete"})

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
def _logging_to(path: Path) -> Iterator[None]:
    """Log to a file, and the main process also to standard error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.FileHandler(path)]
    handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    if path.name == "rank0.log":
        handlers.append(logging.StreamHandler(sys.stderr))
    for handler in handlers:
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            if isinstance(handler, logging.FileHandler):
                handler.close()
