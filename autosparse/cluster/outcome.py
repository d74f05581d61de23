"""How jobs ended, and what is said of them while they run."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from autosparse.cluster.job import Job, failure


@dataclass(frozen=True)
class Failure:
    """A job that did not end well."""

    job: Job
    error: str


def failures(ended: Iterable[tuple[Job, Path]]) -> list[Failure]:
    """Those of the jobs that are not complete, each with its error and its log.

    Args:
        ended: jobs, and what their first process wrote to standard error.
    """
    found = []
    for job, path in ended:
        error = failure(job)
        if error is not None:
            lines = path.read_text(errors="replace").split("\n") if path.is_file() else []
            last = next((line.strip() for line in reversed(lines) if line.strip()), None)
            told = any(job.folder.glob("logs/rank*.error.json"))  # a job that was killed, or was not started, tells not
            found.append(Failure(job, f"{error}{f' ({last})' if last and not told else ''}; log: {path}"))
    return found


def say(message: str) -> None:
    """Tell whoever is looking, beside a progress bar if there is one."""
    tqdm.write(message, file=sys.stderr)
