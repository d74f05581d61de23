"""Running a list of jobs, wherever that is."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from tqdm import tqdm

from autosparse.cluster.job import Job, Task, describe, failure
from autosparse.cluster.record import config_difference
from autosparse.cluster.resources import Resources
from autosparse.errors import UserError


@dataclass(frozen=True)
class Failure:
    """A job that did not end well."""

    job: Job
    error: str


def launch(jobs: Sequence[Job], resources: Resources, output: Path, name: str, wait: bool = False) -> None:
    """Run the jobs that are not complete, then print every job's folder, one a line, on standard output.

    On Slurm they are submitted as one array; elsewhere they are run to their end, and one that fails does not keep the
    others from running. Progress goes to standard error.

    Args:
        jobs: the grid.
        resources: where and with what.
        output: the folder of all runs; submitit's files go to `output/submitted`.
        name: of the array in the queue.
        wait: on Slurm too, return only when all have ended.

    Raises:
        UserError: two jobs share a folder, a folder holds another run, Slurm refuses, or jobs failed.
    """
    _check(jobs, output)
    cluster = resources.resolve()
    todo, failures = _incomplete(jobs)
    done = len(jobs) - len(todo) - len(failures)
    _say(f"{len(jobs)} runs, {done} complete, {len(todo)} to run ({cluster})")
    if resources.dry_run:
        _show(todo, resources, cluster, output, name)
        return
    runners: dict[str, Callable[..., list[Failure]]] = {"inline": _inline, "local": _local, "slurm": _slurm}
    if todo:
        failures += runners[cluster](todo, resources, output / "submitted", name, wait)
    for failed in failures:
        _say(f"failed: {failed.job.folder}: {failed.error}")
    for job in jobs:
        print(job.folder)
    if failures:
        raise UserError(f"{len(failures)} of {len(jobs)} runs failed; the same command runs them again")


def _incomplete(jobs: Sequence[Job]) -> tuple[list[Job], list[Failure]]:
    """The jobs to run, and those whose output is damaged, which must not keep the others from running."""
    todo, damaged = list[Job](), list[Failure]()
    for job in jobs:
        try:
            if not job.is_complete():
                todo.append(job)
        except UserError as error:
            damaged.append(Failure(job, describe(error)))
    return todo, damaged


def _inline(jobs: list[Job], resources: Resources, folder: Path, name: str, wait: bool) -> list[Failure]:
    failures = []
    for number, job in enumerate(jobs, 1):
        _say(f"[{number}/{len(jobs)}] {job.folder}")
        try:
            Task(job, resources.cpus_per_task)()
        except Exception as error:  # the other jobs go on; the traceback is in the run's log
            failures.append(Failure(job, describe(error)))
    return failures


def _local(jobs: list[Job], resources: Resources, folder: Path, name: str, wait: bool) -> list[Failure]:
    at_once = min(resources.array_parallelism or 1, len(jobs))
    executor = submitit.LocalExecutor(folder / "%j")
    executor.update_parameters(**resources.local_parameters())
    waiting, running = list(jobs), dict[int, tuple[Job, Any]]()
    failures: list[Failure] = []
    with tqdm(total=len(jobs), desc=name, unit="run", disable=None) as bar:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running[id(job)] = job, executor.submit(Task(job, resources.local_cpus(at_once)))
                _say(f"started {job.folder}")
            for key, (job, handle) in list(running.items()):
                if handle.done():
                    del running[key]
                    bar.update()
                    failures += _failures([(job, handle)])
            time.sleep(0.1)
    return failures


def _slurm(jobs: list[Job], resources: Resources, folder: Path, name: str, wait: bool) -> list[Failure]:
    executor = submitit.SlurmExecutor(folder / "%j")
    executor.update_parameters(**resources.slurm_parameters(name))
    try:
        handles = executor.submit_array([Task(job, resources.cpus_per_task or 4) for job in jobs])
    except submitit.core.utils.FailedJobError as error:
        reasons = [line.removeprefix("sbatch: error: ") for line in str(error).splitlines() if "error: " in line]
        raise UserError(f"Slurm refuses: {'; '.join(reasons) or error}") from None
    job_id = handles[0].job_id.split("_")[0]
    script = folder / job_id / f"{job_id}_submission.sh"
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(script, job.folder / "batch.sh")
    _say(f"submitted as {job_id}; see squeue --me")
    if not wait:
        return []
    pending = list(zip(jobs, handles, strict=True))
    with tqdm(total=len(jobs), desc=name, unit="run", disable=None) as bar:
        while True:
            left = [(job, handle) for job, handle in pending if not handle.done()]
            bar.update(len(jobs) - len(left) - bar.n)
            if not left:
                return _failures(pending)
            time.sleep(2)


def _failures(ended: list[tuple[Job, Any]]) -> list[Failure]:
    found = []
    for job, handle in ended:
        error = failure(job)
        if error is not None:
            found.append(Failure(job, f"{error}; log: {handle.paths.stderr}"))
    return found


def _check(jobs: Sequence[Job], output: Path) -> None:
    if not jobs:
        raise UserError("nothing to run: each of the grid's flags (--seeds, --criteria, ...) needs a value")
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; name a folder")
    seen: dict[Path, Job] = {}
    for job in jobs:
        if job.folder in seen:
            raise UserError(f"two runs of this grid have the folder {job.folder}; is a value given twice?")
        seen[job.folder] = job
        if difference := config_difference(job.folder, job.config()):
            raise UserError(difference)


def _show(jobs: list[Job], resources: Resources, cluster: str, output: Path, name: str) -> None:
    for job in jobs:
        print(job.folder)
    if cluster == "slurm":
        print(_Script(output / "submitted" / "%j").text(resources.slurm_parameters(name), len(jobs)))


class _Script(submitit.SlurmExecutor):
    """The batch script that would be submitted, also where there is no Slurm."""

    @classmethod
    def affinity(cls) -> int:
        return 1

    def text(self, parameters: dict[str, Any], jobs: int) -> str:
        self.update_parameters(**parameters)
        if jobs > 1:
            self.parameters["map_count"] = jobs
        return self._make_submission_file_text(self._submitit_command_str, "dry-run")


def _say(message: str) -> None:
    tqdm.write(message, file=sys.stderr)
