"""A graph of jobs on Slurm, through submitit: each stage is one array, after the arrays of the stages before it.

OUTPUT/submitted/
  irp_0/            the first submission of autosparse irp
    4242/           batch script of the array
    4242_0/         output of the first job before and after the run's own log, and files that submitit keeps
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, JobPaths
from submitit.helpers import clean_env
from tqdm import tqdm

from autosparse.cluster import lease, process, records, slurm, status
from autosparse.cluster.attempt import Attempt
from autosparse.cluster.job import Failure, Job, Stage, failure
from autosparse.cluster.records import say
from autosparse.cluster.resources import DEFAULT_CPUS, DEFAULT_PARALLELISM, Resources
from autosparse.cluster.workers import Group
from autosparse.errors import UserError
from autosparse.files import naming, read_record

JobIds = dict[Path, str]
"""The job in the queue for the folder of each run: `4242_3` in an array, else `4242`."""


class Submitted(NamedTuple):
    """A job that was submitted just now."""

    job_id: str
    log: Path
    """Standard error of its first process."""
    script: Path
    """Its batch script."""


def run(stages: list[Stage], resources: Resources, root: Path, folders: Iterable[Path]) -> list[Failure]:
    """Submit the jobs that are not in the queue and, if asked to, wait for all; return those that failed.

    Where Slurm refuses or does not answer, nothing is submitted, and a `UserError` says so.

    Args:
        stages: graph of the jobs that are not complete.
        resources: resources of each job.
        root: folder of Slurm's and submitit's files.
        folders: folders of all runs that were asked for. Held jobs of complete ones are released, too: such a job may
            have lost its node when its work was done, and the next array waits for its end.
    """
    queue = slurm.queue()
    if queue is None:
        raise UserError("Slurm does not say what is in its queue (squeue); try again")
    for job_id in resources.after:
        if not slurm.knows(job_id):
            raise UserError(f"after {job_id}: Slurm does not know this job (any more); leave it out if it ended well")
    jobs = [job for stage in stages for job in stage.jobs]
    ids: JobIds = {job.folder: queued for job in jobs if (queued := _queued(job, queue))}
    if ids:
        say(f"{len(ids)} of them in the queue already: {_arrays(ids)}")
    asked = dict.fromkeys(filter(None, map(records.job_of, folders)))
    if held := [job_id for job_id in asked if job_id in queue and queue[job_id].held]:
        say(f"held, and released now: {' '.join(held)}")
        slurm.release(held)
    if never := [job_id for job_id in ids.values() if queue[job_id].never]:
        say(f"pending forever, and replaced now: {' '.join(f'{name} ({queue[name].reason})' for name in never)}")
    stale = _stale(stages, ids, queue)
    ids = {folder: job_id for folder, job_id in ids.items() if folder not in stale}
    ids |= _submit_stages(stages, ids, resources, root)
    slurm.cancel(dict.fromkeys(stale.values()))
    if not resources.wait:
        return []
    try:
        return wait(jobs, stages[-1].name)
    except KeyboardInterrupt:
        say(f"the jobs stay in the queue; to end them: scancel {_arrays(ids)}")
        raise


def show(stages: list[Stage], resources: Resources, root: Path) -> None:
    """Print the batch scripts that would be submitted, as if the queue were empty and its job ids began at 1."""
    ids, next_id = dict[str, list[str]](), 1
    for stage in stages:
        given = _of_stage(stage, resources, ids)
        tasks = _tasks(stage.jobs, given)
        texts = scripts(tasks, given, stage.name, _next_folder(root, stage.name), next_id)
        ids[stage.name] = [str(next_id + number) for number in range(len(texts))]
        next_id += len(texts)
        print("\n".join(texts))
    if next_id > 2:
        say("these scripts number their own jobs from 1; --dependency gets Slurm's ids when they are submitted")


def wait(jobs: Sequence[Job], name: str) -> list[Failure]:
    """Wait until each job is complete or has ended otherwise; return the jobs that are not complete.

    A requeued job stays in the queue, so it is waited for, and so is another job that works on a run by now, as two
    commands were given at once. To be sure, a run must be seen as ended twice in a row.
    """
    left, before, start = {job.folder for job in jobs}, dict[Path, str](), time.monotonic()
    with tqdm(total=len(left), desc=name, unit="run", disable=None) as bar:
        while True:
            queue = slurm.queue()
            states = {folder: _state(folder, queue) for folder in left}
            if "unknown" in states.values() and "unknown" not in before.values():
                say("squeue does not answer; still waiting")
            for folder in sorted(left):
                if states[folder] == "requeued" != before.get(folder):
                    say(f"queued again: {folder} ({records.job_of(folder)})")
            ended = {folder for folder in left if states[folder] in status.ENDED}
            ended = {folder for folder in ended if states[folder] in ("complete", before.get(folder))}
            bar.update(len(ended))
            left, before = left - ended, states
            if not left:
                break
            counts = Counter(states[folder] for folder in left)
            bar.set_postfix_str(", ".join(f"{count} {state}" for state, count in counts.items()))
            time.sleep(min(20.0, 0.5 + (time.monotonic() - start) / 20))
    failures = [failed for job in jobs if (failed := failure(job))]
    ends = slurm.last_states() if failures else {}
    jobs_of = [records.job_of(failed.job.folder) for failed in failures]
    return [
        replace(failed, error=f"{failed.error}; Slurm: {ends[job_id].state}") if job_id in ends else failed
        for failed, job_id in zip(failures, jobs_of, strict=True)
    ]


def _state(folder: Path, queue: dict[str, slurm.State] | None) -> str:
    """Return the state of a run; if its job has left the queue, it was killed even if its lease is still fresh."""
    state, job_id = status.state_of(folder, queue), records.job_of(folder)
    if state == "running" and queue is not None and job_id not in queue:
        holder = lease.holder_of(folder)
        return "killed" if holder is None or holder["job"] == job_id else state
    return state


def submit_array(tasks: Sequence[Callable[[], Any]], resources: Resources, name: str, folder: Path) -> list[Submitted]:
    """Submit tasks as one array or, where the site's limit is lower, as several, each after the last.

    Where Slurm refuses the jobs, or would never start them, none of them stays in the queue. Each job calls its task in
    each of its processes. `folder` is a new one for submitit's files.
    """
    submitted: list[Submitted] = []
    try:
        for part in _parts(tasks):
            previous = slurm.arrays([submitted[-1].job_id])[0] if submitted else None
            submitted += _submit_part(part, _executor(resources, name, folder, previous), resources, folder)
        state = (slurm.queue() or {}).get(submitted[0].job_id)
        if state and state.never:
            raise UserError(f"Slurm would never start it: {state.reason} (asked for {resources.request})")
    except BaseException:
        slurm.cancel(job.job_id for job in submitted)
        raise
    return submitted


def scripts(tasks: Sequence[Any], resources: Resources, name: str, folder: Path, first_id: int = 1) -> list[str]:
    """Return the batch scripts that `submit_array` would submit, as if the first job got the id `first_id`."""
    texts = []
    for number, part in enumerate(_parts(tasks)):
        executor = _executor(resources, name, folder, str(first_id + number - 1) if number else None)
        if len(part) > 1:
            executor.parameters["map_count"] = len(part)
        texts.append(executor._make_submission_file_text(executor._submitit_command_str, ""))
    return texts


def parameters(resources: Resources, name: str, previous: str | None = None) -> dict[str, Any]:
    """Return the parameters of submitit's Slurm executor; `previous` is an array that is to end first, well or not."""
    cpus = resources.cpus_per_task or DEFAULT_CPUS
    after = [f"afterok:{':'.join(resources.after)}"] * bool(resources.after) + [f"afterany:{previous}"] * bool(previous)
    given = {
        "job_name": name,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "nodes": resources.nodes or 1,
        "ntasks_per_node": resources.tasks,
        "gpus_per_node": resources.gpus(1) or None,
        "cpus_per_task": cpus,
        "mem": resources.mem,
        "time": resources.minutes,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
        "dependency": ",".join(after) or None,
        "array_parallelism": resources.array_parallelism or DEFAULT_PARALLELISM,
        "signal_delay_s": min(90, 15 * resources.minutes),  # Slurm may send it up to half a minute earlier.
        "setup": _checked_setup(resources.setup) or None,
        # srun does not inherit --cpus-per-task since Slurm 22.05; one dead rank must not leave the others waiting.
        "srun_args": [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1"],
        "additional_parameters": {
            "requeue" if resources.requeues else "no-requeue": True,
            # Otherwise a job whose dependency has failed would be pending forever.
            **({"kill-on-invalid-dep": "yes"} if resources.after else {}),
            **resources.slurm_options,
        },
    }
    # submitit sends a wckey of its own, which sites that do not track them refuse.
    return {key: value for key, value in given.items() if value is not None} | {"wckey": None}


def _queued(job: Job, queue: dict[str, slurm.State]) -> str | None:
    """Return the job in the queue that works on a run; raise if it was submitted with a different configuration."""
    job_id = records.job_of(job.folder)
    if job_id not in queue:
        return None
    config = read_record(job.folder / "job.json").get("config")
    if config and (difference := records.config_difference(job, config)):
        raise UserError(f"{difference}; job {job_id} works on it: autosparse runs cancel {job.folder}")
    return job_id


def _stale(stages: list[Stage], ids: JobIds, queue: dict[str, slurm.State]) -> JobIds:
    """Return the pending jobs to replace: they never start, or wait for jobs whose runs are submitted again."""
    stale, again = JobIds(), set[str]()
    for stage in stages:
        doomed = not again.isdisjoint(stage.after)
        for job in stage.jobs:
            job_id = ids.get(job.folder)
            if job_id and (queue[job_id].never or (doomed and queue[job_id].state == "PENDING")):
                stale[job.folder] = job_id
            if not job_id or job.folder in stale:
                again.add(stage.name)
    return stale


def _submit_stages(stages: list[Stage], queued: JobIds, resources: Resources, root: Path) -> JobIds:
    """Submit the jobs that are not queued, all of them or none; return their ids."""
    submitted: dict[Path, Submitted] = {}
    ids = dict[str, list[str]]()  # ids of the arrays and jobs of each stage
    try:
        with contextlib.ExitStack() as folders:
            for stage in stages:
                ids[stage.name] = [queued[job.folder] for job in stage.jobs if job.folder in queued]
                new = [job for job in stage.jobs if job.folder not in queued]
                if not new:
                    continue
                folder = folders.enter_context(_new_folder(root, stage.name))
                given = _of_stage(stage, resources, ids)
                arrays = submit_array(_tasks(new, given), given, stage.name, folder)
                submitted |= {job.folder: arrays[k // given.runs_per_job] for k, job in enumerate(new)}
                ids[stage.name] += slurm.arrays(place.job_id for place in arrays)
            for job in (job for stage in stages for job in stage.jobs if job.folder in submitted):
                place = submitted[job.folder]
                records.write_submission(job, place.job_id, place.log, resources.runs_per_job)
                with naming(job.folder / "batch.sh"):
                    shutil.copyfile(place.script, job.folder / "batch.sh")
    except BaseException:
        slurm.cancel(dict.fromkeys(place.job_id for place in submitted.values()))
        raise
    new_ids = {folder: place.job_id for folder, place in submitted.items()}
    if new_ids:
        say(f"submitted as {_arrays(new_ids)}; see squeue --me")
    return new_ids


def _next_folder(root: Path, name: str) -> Path:
    """Return the folder of the next submission of this name."""
    numbers = [int(match[1]) for path in root.glob(f"{name}_*") if (match := re.fullmatch(r".*_(\d+)", path.name))]
    return root / f"{name}_{max(numbers, default=-1) + 1}"


@contextlib.contextmanager
def _new_folder(root: Path, name: str) -> Iterator[Path]:
    """Make the folder of the next submission; it and new folders above it are removed if the block raises."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    while True:
        folder = _next_folder(root, name)
        with contextlib.suppress(FileExistsError):  # Another command was quicker.
            folder.mkdir(0o755)  # whatever the umask, see `_submission`
            break
    try:
        with naming(folder):
            yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):  # It has files of another command.
                parent.rmdir()
        raise
    for link in folder.glob(".submission_file_*.sh"):  # submitit leaves it.
        link.unlink()


def _of_stage(stage: Stage, resources: Resources, ids: dict[str, list[str]]) -> Resources:
    """Return the resources of a stage's jobs, with dependencies on the jobs `ids` of the stages before it."""
    heads = [job_id for name in stage.after for job_id in ids[name]]
    given = resources.single() if stage.single else resources
    return replace(given, after=tuple(dict.fromkeys((*resources.after, *heads))))


def _tasks(jobs: Sequence[Job], resources: Resources) -> list[Callable[[], None]]:
    """Return what each job of an array calls: one attempt, or `runs_per_job` runs."""
    if (size := resources.runs_per_job) > 1:
        return [Group(tuple(jobs[start : start + size]), resources) for start in range(0, len(jobs), size)]
    return [Attempt(job, resources.cpus_per_task or DEFAULT_CPUS, resources.requeues) for job in jobs]


def _arrays(ids: JobIds) -> str:
    return " ".join(slurm.arrays(ids.values()))


class _Executor(submitit.SlurmExecutor):
    """submitit's executor, which also writes batch scripts where Slurm is not installed."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def _executor(resources: Resources, name: str, folder: Path, previous: str | None) -> _Executor:
    executor = _Executor(folder / "%j", python=process.PYTHON)
    executor.update_parameters(**parameters(resources, name, previous))
    return executor


def _parts(tasks: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield tasks as the site's limit allows them in one array; the limit is 0 where there are no arrays."""
    limit = slurm.max_array_size() if len(tasks) > 1 else None
    size = len(tasks) if limit is None else max(1, limit)
    for start in range(0, len(tasks), size):
        yield tasks[start : start + size]


def _submit_part(
    tasks: Sequence[Callable[[], Any]], executor: _Executor, resources: Resources, folder: Path
) -> list[Submitted]:
    """Submit one array, or a plain job if there is one task."""
    with _submission(), contextlib.redirect_stderr(io.StringIO()):  # submitit prints its errors there, too.
        try:
            jobs = executor.submit_array(tasks)
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(f"Slurm refuses: {_reasons(str(error))} (asked for {resources.request})") from None
    script = JobPaths(folder / "%j", jobs[0].job_id.split("_")[0]).submission_file
    return [Submitted(job.job_id, job.task(0).paths.stderr, script) for job in jobs]


@contextlib.contextmanager
def _submission() -> Iterator[None]:
    """Hide the environment of a job from jobs that it submits: they would be tasks of its array and run its work.

    SLURM_CONF stays: it names the Slurm to ask. Only their user may write to the files, as loading a pickle runs code.
    """
    configuration, mask = os.environ.get("SLURM_CONF"), os.umask(0o077)
    os.umask(mask | 0o022)
    try:
        with clean_env():
            if configuration is not None:
                os.environ["SLURM_CONF"] = configuration
            yield
    finally:
        os.umask(mask)


def _checked_setup(commands: Sequence[str]) -> list[str]:
    """Return lines of the batch script before the processes are started; a command that fails ends the job."""
    lines: list[str] = []
    for command in commands:
        failed = shlex.quote(f"setup failed: {command}")
        lines += [command, f"[ $? -eq 0 ] || {{ echo {failed} >&2; exit 1; }}"]
    return lines


def _reasons(text: str) -> str:
    """Return sbatch's errors in one line."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in text.splitlines() if "sbatch: " in line]
    reasons = [line.removeprefix("Batch job submission failed: ") for line in lines]
    return "; ".join(reasons) or " ".join(text.split())
