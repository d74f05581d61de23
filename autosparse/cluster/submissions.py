"""Folders of Slurm's and submitit's files: one per submission, with one per job in it.

OUTPUT/submitted/
  irp_0/            the first submission of autosparse irp
    jobs.json       folders of the runs of each job
    4242/           batch script of the array
    4242_0/         output of the first job before and after the run's own log, and files that submitit keeps
"""

import datetime
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autosparse.files import naming, read_record, write_json

JOBS = "jobs.json"


def next_folder(root: Path, name: str) -> Path:
    """Return the folder of the next submission of this name."""
    numbers = [int(match[1]) for path in root.glob(f"{name}_*") if (match := re.fullmatch(r".*_(\d+)", path.name))]
    return root / f"{name}_{max(numbers, default=-1) + 1}"


@contextmanager
def claimed(root: Path, name: str) -> Iterator[Path]:
    """Make a new folder for a submission; it and new folders above it are removed if the block raises."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    while True:
        folder = next_folder(root, name)
        with suppress(FileExistsError):  # Another command was quicker.
            folder.mkdir()
            break
    try:
        with naming(folder):
            yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # It has files of another command.
                parent.rmdir()
        raise


def record(folder: Path, runs: Iterable[tuple[str, Path]]) -> None:
    """Record the id of the job and the folder of each run, and remove a link that submitit leaves."""
    for link in folder.glob(".submission_file_*.sh"):
        link.unlink()
    where, jobs = folder.resolve(), defaultdict[str, list[str]](list)
    for job_id, run in runs:
        jobs[job_id].append(os.path.relpath(run.resolve(), where))
    write_json(folder / JOBS, {"submitted": datetime.datetime.now().isoformat(), "jobs": jobs})


def recorded(root: Path) -> Iterator[tuple[Path, str, list[Path]]]:
    """Yield the folder, id and runs of each job that was submitted, newest submissions first."""
    records = {path.parent: read_record(path) for path in root.glob(f"*/{JOBS}")}
    folders = [folder for folder, record in records.items() if record]  # Damaged ones are left alone.
    for folder in sorted(folders, key=lambda folder: records[folder]["submitted"], reverse=True):
        for job_id, runs in records[folder]["jobs"].items():
            yield folder / job_id, job_id, [(folder / run).resolve() for run in runs]


def prune(root: Path, is_active: Callable[[str], bool]) -> None:
    """Remove the folders of jobs that have ended, if their runs are complete by now or were submitted again.

    So the number of folders is bounded by the number of jobs in the queue and of runs that are not complete.

    Args:
        root: folder of the submissions.
        is_active: returns True for the id of a job that has not ended.
    """
    again = set[Path]()
    for folder, job_id, runs in list(recorded(root)):
        left = [run for run in runs if run not in again]
        left = [run for run in left if read_record(run / "status.json").get("state") != "complete"]
        if not left and not is_active(job_id):
            shutil.rmtree(folder, ignore_errors=True)
            if not any((folder.parent / other).exists() for other in read_record(folder.parent / JOBS).get("jobs", ())):
                shutil.rmtree(folder.parent, ignore_errors=True)
        again.update(runs)
