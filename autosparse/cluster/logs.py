"""Where Slurm and submitit write: a folder a submission, with a folder a job in it, pruned when they tell nothing more.

OUTPUT/submitted/
  irp_0/            the first submission of launch/irp.py
    jobs.json       which run each job works on
    4242/           the batch script of the array
    4242_0/         what the first job said, before and around the run's own logs, and what submitit keeps
"""

import datetime
import os
import re
import shutil
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from autosparse.files import naming, read_record, write_json

JOBS = "jobs.json"


def next_folder(root: Path, name: str) -> Path:
    """The folder that the next submission of this name gets."""
    numbers = [int(match[1]) for path in root.glob(f"{name}_*") if (match := re.fullmatch(r".*_(\d+)", path.name))]
    return root / f"{name}_{max(numbers, default=-1) + 1}"


@contextmanager
def claimed(root: Path, name: str) -> Iterator[Path]:
    """A new folder for a submission. It and what was made for it are gone again if the block raises."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    while True:
        folder = next_folder(root, name)
        with suppress(FileExistsError):  # another command was quicker
            folder.mkdir()
            break
    try:
        with naming(folder):  # submitit's files
            yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        for each in made:
            with suppress(OSError):  # another command's files
                each.rmdir()
        raise


def record(folder: Path, cluster: str, runs: Mapping[str, Path]) -> None:
    """Record the folder of each job's run, by job id, and remove a link that submitit leaves."""
    for link in folder.glob(".submission_file_*.sh"):
        link.unlink()
    where = folder.resolve()
    jobs = {job_id: os.path.relpath(run.resolve(), where) for job_id, run in runs.items()}
    write_json(folder / JOBS, {"cluster": cluster, "submitted": datetime.datetime.now().isoformat(), "jobs": jobs})


def place_of(root: Path, run: Path) -> tuple[str, Path] | None:
    """The job of Slurm that a run was submitted as last, and what its first process writes to standard error."""
    for folder, jobs in _submissions(root, "slurm"):
        for job_id, place in jobs.items():
            if run.resolve() == place:
                return job_id, folder / job_id / f"{job_id}_0_log.err"
    return None


def job_ids(root: Path) -> list[str]:
    """The jobs of Slurm that were submitted and may be in its queue, of complete runs, too."""
    return [job_id for _, jobs in _submissions(root, "slurm") for job_id in jobs]


def prune(root: Path, cluster: str, active: Container[str]) -> None:
    """Remove the folders of jobs that have ended, if their runs are complete by now or were submitted again.

    So what is kept is bounded by the number of runs: those of jobs in the queue, and of each other run the last.

    Args:
        root: folder of the submissions.
        cluster: whose jobs; those of another are left alone.
        active: ids of the jobs that have not ended.
    """
    again = set[Path]()
    for folder, jobs in _submissions(root, cluster):
        for job_id, run in jobs.items():
            if job_id not in active and (run in again or _is_complete(run)):
                shutil.rmtree(folder / job_id, ignore_errors=True)
            again.add(run)
        if not any((folder / job_id).exists() for job_id in jobs):
            shutil.rmtree(folder, ignore_errors=True)


def _submissions(root: Path, cluster: str) -> list[tuple[Path, dict[str, Path]]]:
    """Return the folders of submissions, newest first, each with the run of each of its jobs."""
    found: list[tuple[str, Path, dict[str, Any]]] = []
    for path in root.glob(f"*/{JOBS}"):
        said = read_record(path)  # a damaged one is left alone
        if said.get("cluster") == cluster:
            found.append((said["submitted"], path.parent, said["jobs"]))
    found.sort(key=lambda row: row[0], reverse=True)
    return [(folder, {job_id: (folder / run).resolve() for job_id, run in jobs.items()}) for _, folder, jobs in found]


def _is_complete(run: Path) -> bool:
    return read_record(run / "status.json").get("state") == "complete"
