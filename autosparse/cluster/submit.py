"""Running a list of jobs, wherever that is."""

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from autosparse.cluster import batch, local, logs, record, slurm, waiting
from autosparse.cluster.job import Job, Task, describe
from autosparse.cluster.outcome import Failure, say
from autosparse.cluster.record import config_difference
from autosparse.cluster.resources import DEFAULT_CPUS, DEFAULT_REQUEUES, Resources
from autosparse.errors import UserError
from autosparse.files import read_json


def launch(jobs: Sequence[Job], resources: Resources, output: Path, name: str, wait: bool = False) -> None:
    """Run the jobs that are not complete, then print every job's folder, one a line, on standard output.

    On Slurm they are submitted as one array, but for those that are in the queue already; elsewhere they are run to
    their end, and one that fails does not keep the others from running. Progress goes to standard error.

    Args:
        jobs: the grid.
        resources: where and with what.
        output: the folder of all runs; Slurm's and submitit's files go to `output/submitted`, if not elsewhere.
        name: of the array in the queue.
        wait: on Slurm too, return only when all have ended, as with `resources.wait`.

    Raises:
        UserError: two jobs share a folder, a folder holds another run, Slurm refuses, or jobs failed.
    """
    _check(jobs, output)
    resources = resources.resolve()
    todo, failures = _incomplete(jobs)
    done = len(jobs) - len(todo) - len(failures)
    say(f"{len(jobs)} runs, {done} complete, {len(todo)} to run ({resources.cluster})")
    root = (resources.log_dir or output / "submitted").absolute()
    if resources.cluster != "inline" and re.search(r"[%\\]", str(root)):
        raise UserError(f"{root}: Slurm gives % and backslashes in file names a meaning; choose another --log-dir")
    if resources.dry_run:
        _show(todo, resources, root, name)
        return
    if todo and resources.cluster == "slurm":
        failures += _slurm(todo, resources, root, name, wait or resources.wait)
    elif todo:
        failures += local.run(todo, resources, root, name) if resources.cluster == "local" else _inline(todo, resources)
    for failed in failures:
        say(f"failed: {failed.job.folder}: {failed.error}")
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


def _inline(jobs: list[Job], resources: Resources) -> list[Failure]:
    failures = []
    for number, job in enumerate(jobs, 1):
        say(f"[{number}/{len(jobs)}] {job.folder}")
        record.write_submission(job.folder, None, None)
        try:
            Task(job, resources.cpus_per_task)()
        except Exception as error:  # the other jobs go on; the traceback is in the run's log
            failures.append(Failure(job, describe(error)))
    return failures


def _slurm(jobs: list[Job], resources: Resources, root: Path, name: str, wait: bool) -> list[Failure]:
    queue = slurm.queue()
    if queue is None:
        raise UserError("Slurm does not say what is in its queue (squeue); try again")
    for job_id in resources.after:
        if not slurm.knows(job_id):
            raise UserError(f"--after {job_id}: Slurm does not know this job (any more); leave it out if it ended well")
    queued = {job.folder: log for job in jobs if (log := _queued(job, queue))}
    new = [job for job in jobs if job.folder not in queued]
    if queued:
        say(f"{len(queued)} of them in the queue already: {_arrays(job_id for job_id, _ in queued.values())}")
    logs.prune(root, "slurm", queue)
    if new:
        queued |= _submit(new, resources, root, name)
    if not wait:
        return []
    try:
        return waiting.wait([(job, *queued[job.folder]) for job in jobs], name)
    except KeyboardInterrupt:
        arrays = _arrays(job_id for job_id, _ in queued.values())
        say(f"the jobs go on without this; to end them: scancel {arrays}")
        raise


def _submit(jobs: list[Job], resources: Resources, root: Path, name: str) -> dict[Path, tuple[str, Path]]:
    """Submit; returns each run's job id and log."""
    with logs.claimed(root, name) as folder:
        submitted = batch.submit(_tasks(jobs, resources), resources, name, folder)
    logs.record(folder, "slurm", {each.job_id: job.folder for job, each in zip(jobs, submitted, strict=True)})
    for job, each in zip(jobs, submitted, strict=True):
        record.write_submission(job.folder, each.job_id, str(each.log))
        shutil.copyfile(each.script, job.folder / "batch.sh")
    say(f"submitted as {_arrays(each.job_id for each in submitted)}; see squeue --me")
    return {job.folder: (each.job_id, each.log) for job, each in zip(jobs, submitted, strict=True)}


def _arrays(job_ids: Iterable[str]) -> str:
    """The arrays, or plain jobs, that job ids belong to."""
    return " ".join(dict.fromkeys(job_id.split("_")[0] for job_id in job_ids))


def _tasks(jobs: list[Job], resources: Resources) -> list[Task]:
    cpus = resources.cpus_per_task or DEFAULT_CPUS
    requeues = DEFAULT_REQUEUES if resources.max_requeues is None else resources.max_requeues
    return [Task(job, cpus, requeues) for job in jobs]


def _queued(job: Job, queue: dict[str, slurm.State]) -> tuple[str, Path] | None:
    """Id and log of the job that a run waits or works in, if there is one."""
    path = job.folder / "job.json"
    if not path.is_file():
        return None
    said = read_json(path)
    return (said["job"], Path(said["log"])) if said["job"] in queue else None


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


def _show(jobs: list[Job], resources: Resources, root: Path, name: str) -> None:
    for job in jobs:
        print(job.folder)
    if jobs and resources.cluster == "slurm":
        for script in batch.dry_run(_tasks(jobs, resources), resources, name, logs.next_folder(root, name)):
            print(script)
