"""A graph of jobs on Slurm, through submitit: each stage is one array, after the arrays of the stages before it."""

import contextlib
import io
import os
import re
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, JobPaths
from submitit.helpers import clean_env
from tqdm import tqdm

from autosparse.cluster import lease, provenance, slurm, submissions, worker
from autosparse.cluster.attempt import Attempt
from autosparse.cluster.job import Failure, Job, Stage, blocked, failure
from autosparse.cluster.progress import say
from autosparse.cluster.resources import DEFAULT_CPUS, DEFAULT_PARALLELISM, Resources
from autosparse.cluster.workers import Group
from autosparse.errors import UserError
from autosparse.files import naming, read_record

# submitit guesses from the time limit whether a signal means that time is up, always so below 10 minutes, and then
# gives up jobs that were only preempted; so it gets a limit that is never near.
_NO_LIMIT = 10**6  # minutes

_NEVER = re.compile(r"Partition(Config|TimeLimit|NodeLimit)|BadConstraints|Invalid(Account|QOS)|.*PerJob(Limit)?")
"""Reasons for which a job stays pending forever."""


class Submitted(NamedTuple):
    """A job in the queue."""

    job_id: str
    """`4242_3` in an array, else `4242`."""
    log: Path
    """Standard error of its first process."""
    script: Path | None = None
    """Its batch script, if this command has submitted it."""


Places = dict[Path, Submitted]
"""The job in the queue for the folder of each run."""


def run(stages: list[Stage], resources: Resources, root: Path) -> list[Failure]:
    """Submit the jobs that are not in the queue and, if asked to, wait for all; return those that failed.

    Where Slurm refuses or does not answer, nothing is submitted, and a `UserError` says so.
    """
    queue = slurm.queue()
    if queue is None:
        raise UserError("Slurm does not say what is in its queue (squeue); try again")
    for job_id in resources.after:
        if not slurm.knows(job_id):
            raise UserError(f"after {job_id}: Slurm does not know this job (any more); leave it out if it ended well")
    jobs = [job for stage in stages for job in stage.jobs]
    places: Places = {job.folder: place for job in jobs if (place := _queued(job, queue, root))}
    if places:
        say(f"{len(places)} of them in the queue already: {_arrays(places)}")
    # Jobs of complete runs are released, too: such a job may have lost its node just then, and the next array waits.
    submitted = [job_id for _, job_id, _ in submissions.recorded(root)]
    if held := [job_id for job_id in submitted if job_id in queue and queue[job_id].held]:
        say(f"held, and released now: {' '.join(held)}")
        slurm.release(held)
    submissions.prune(root, queue.__contains__)
    stale = _stale(stages, places, queue)
    places = {folder: place for folder, place in places.items() if folder not in stale}
    places |= _submit_stages(stages, places, resources, root)
    slurm.cancel(dict.fromkeys(stale.values()))
    if not resources.wait:
        return []
    try:
        failures = wait([(job, places[job.folder]) for job in jobs], stages[-1].name)
    except KeyboardInterrupt:
        say(f"the jobs stay in the queue; to end them: scancel {_arrays(places)}")
        raise
    failed_folders = {failed.job.folder for failed in failures}
    failed = {stage.name for stage in stages if {job.folder for job in stage.jobs} & failed_folders}
    blocks = {block.job.folder: block for stage in stages for block in blocked(stage, failed)}

    def started(job: Job) -> bool:
        return read_record(job.folder / "status.json").get("job") == places[job.folder].job_id

    # A job that was cancelled before it started failed because of the stage before it.
    return [each if started(each.job) else blocks.get(each.job.folder, each) for each in failures]


def show(stages: list[Stage], resources: Resources, root: Path) -> None:
    """Print the batch scripts that would be submitted, as if the queue were empty and its job ids began at 1."""
    ids, next_id = dict[str, list[str]](), 1
    for stage in stages:
        given = _of_stage(stage, resources, ids)
        tasks = _tasks(stage.jobs, given)
        texts = scripts(tasks, given, stage.name, submissions.next_folder(root, stage.name), next_id)
        ids[stage.name] = [str(next_id + number) for number in range(len(texts))]
        next_id += len(texts)
        print("\n".join(texts))


def wait(submitted: Sequence[tuple[Job, Submitted]], name: str) -> list[Failure]:
    """Wait until each job is complete or out of the queue; return the jobs that are not complete.

    A requeued job stays in the queue, so it is waited for. A job that was cancelled, or that died in whatever way, has
    left the queue. To be sure, it must be missing twice in a row. If another job works on its run by then, as two
    commands were given at once, that job is waited for.
    """
    left = {job.folder: (job, place.job_id) for job, place in submitted}
    missing, running = set[Path](), set[Path]()
    start, silent = time.monotonic(), False
    with tqdm(total=len(left), desc=name, unit="run", disable=None) as bar:
        while True:
            queue = slurm.queue()
            if queue is None and not silent:
                say("squeue does not answer; still waiting")
            silent, lost = queue is None, set[Path]()
            if queue is not None:
                gone = {folder for folder, (_, job_id) in left.items() if job_id not in queue}
                gone -= {folder for folder in gone if _is_taken_over(*left[folder])}
                lost, missing = gone & missing, gone
            for folder in [folder for folder, (job, _) in left.items() if folder in lost or _is_complete(job)]:
                del left[folder]
                bar.update()
            if not left:
                break
            if queue is not None:
                states = {folder: queue[job_id] for folder, (_, job_id) in left.items() if job_id in queue}
                pending = {folder for folder, state in states.items() if state.state == "PENDING"}
                for folder in sorted(pending & running):
                    say(f"queued again: {folder} ({left[folder][1]})")
                reasons = Counter(states[folder].reason for folder in pending)
                bar.set_postfix_str(", ".join(f"{count} pending: {reason}" for reason, count in reasons.items()))
                running = states.keys() - pending
            time.sleep(min(20.0, 0.5 + (time.monotonic() - start) / 20))
    failures = [(failed, place.job_id) for job, place in submitted if (failed := failure(job, place.log))]
    ends = slurm.last_states() if failures else {}
    return [
        replace(failed, error=f"{failed.error}; Slurm: {ends[job_id].state}") if job_id in ends else failed
        for failed, job_id in failures
    ]


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
        if state and _NEVER.fullmatch(state.reason):
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
        "time": _NO_LIMIT,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
        "dependency": ",".join(after) or None,
        "array_parallelism": resources.array_parallelism or DEFAULT_PARALLELISM,
        "signal_delay_s": min(90, 15 * resources.minutes),  # Slurm may send it up to half a minute earlier.
        "setup": _checked_setup(resources.setup) or None,
        # srun does not inherit --cpus-per-task since Slurm 22.05; one dead rank must not leave the others waiting.
        "srun_args": [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1"],
        "additional_parameters": {
            "time": resources.minutes,
            "requeue" if resources.requeues else "no-requeue": True,
            # Otherwise a job whose dependency has failed would be pending forever.
            **({"kill-on-invalid-dep": "yes"} if resources.after else {}),
            **resources.slurm_options,
        },
    }
    # submitit sends a wckey of its own, which sites that do not track them refuse.
    return {key: value for key, value in given.items() if value is not None} | {"wckey": None}


def _queued(job: Job, queue: dict[str, slurm.State], root: Path) -> Submitted | None:
    """Return the job in the queue that works on a run; raise if it was submitted with a different configuration."""
    path = job.folder / "job.json"
    if not path.is_file():
        return None
    record = read_record(path)
    if not record:  # It is damaged.
        for folder, job_id, runs in submissions.recorded(root):
            if job.folder.resolve() in runs:
                record = {"job": job_id, "log": str(folder / f"{job_id}_0_log.err")}
                provenance.write_submission(job, job_id, record["log"])
                break
    if record.get("job") not in queue:
        return None
    if (config := record.get("config")) and (difference := provenance.config_difference(job, config)):
        raise UserError(f"{difference}; job {record['job']} works on it: autosparse runs cancel {job.folder}")
    return Submitted(record["job"], Path(record["log"]))


def _stale(stages: list[Stage], places: Places, queue: dict[str, slurm.State]) -> dict[Path, str]:
    """Return the pending jobs that depend on jobs of an earlier command alone, while their input is submitted again."""
    stale, again = dict[Path, str](), set[str]()
    for stage in stages:
        if again & set(stage.after):
            queued = {job.folder: places[job.folder].job_id for job in stage.jobs if job.folder in places}
            stale |= {folder: job_id for folder, job_id in queued.items() if queue[job_id].state == "PENDING"}
        if any(job.folder not in places or job.folder in stale for job in stage.jobs):
            again.add(stage.name)
    return stale


def _submit_stages(stages: list[Stage], queued: Places, resources: Resources, root: Path) -> Places:
    """Submit the jobs that are not queued, all of them or none; return their places."""
    places: Places = {}
    submitted = list[tuple[Path, list[Job], list[Submitted]]]()
    ids = dict[str, list[str]]()  # ids of the arrays and jobs of each stage
    try:
        with contextlib.ExitStack() as folders:
            for stage in stages:
                ids[stage.name] = [queued[job.folder].job_id for job in stage.jobs if job.folder in queued]
                new = [job for job in stage.jobs if job.folder not in queued]
                if not new:
                    continue
                folder = folders.enter_context(submissions.claimed(root, stage.name))
                given = _of_stage(stage, resources, ids)
                arrays = submit_array(_tasks(new, given), given, stage.name, folder)
                submitted.append((folder, new, [arrays[k // given.runs_per_job] for k in range(len(new))]))
                ids[stage.name] += slurm.arrays(place.job_id for place in arrays)
            for folder, new, places_of in submitted:
                runs = [(place.job_id, job.folder) for job, place in zip(new, places_of, strict=True)]
                submissions.record(folder, runs)
                for job, place in zip(new, places_of, strict=True):
                    provenance.write_submission(job, place.job_id, str(place.log), resources.runs_per_job)
                    with naming(job.folder / "batch.sh"):
                        shutil.copyfile(str(place.script), job.folder / "batch.sh")
                    places[job.folder] = place
    except BaseException:
        slurm.cancel(place.job_id for *_, places_of in submitted for place in places_of)
        raise
    if places:
        say(f"submitted as {_arrays(places)}; see squeue --me")
    return places


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


def _arrays(places: Places) -> str:
    return " ".join(slurm.arrays(place.job_id for place in places.values()))


def _is_taken_over(job: Job, job_id: str) -> bool:
    """Return True if another job works on the run."""
    holder = lease.holder_of(job.folder)
    return holder is not None and holder["job"] != job_id


def _is_complete(job: Job) -> bool:
    """Return True if the run is complete; its output is read only if `status.json` says so."""
    with contextlib.suppress(UserError):
        return read_record(job.folder / "status.json").get("state") == "complete" and job.is_complete()
    return False


class _Executor(submitit.SlurmExecutor):
    """submitit's executor, which also writes batch scripts where Slurm is not installed."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def _executor(resources: Resources, name: str, folder: Path, previous: str | None) -> _Executor:
    executor = _Executor(folder / "%j", python=worker.PYTHON)
    executor.update_parameters(**parameters(resources, name, previous), teardown=_checked_end(folder))
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
    with _outside_of_any_job(), contextlib.redirect_stderr(io.StringIO()):  # submitit prints its errors there, too.
        try:
            jobs = executor.submit_array(tasks)
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(f"Slurm refuses: {_reasons(str(error))} (asked for {resources.request})") from None
    for job in jobs:  # Loading a pickle runs code, so only its user may write to it, whatever the umask.
        pickle = job.paths.submitted_pickle
        pickle.chmod(pickle.stat().st_mode & ~0o022)
    script = JobPaths(folder / "%j", jobs[0].job_id.split("_")[0]).submission_file
    return [Submitted(job.job_id, job.task(0).paths.stderr, script) for job in jobs]


@contextlib.contextmanager
def _outside_of_any_job() -> Iterator[None]:
    """Hide the environment of a job from jobs that it submits: they would be tasks of its array and run its work.

    SLURM_CONF stays: it names the Slurm to ask.
    """
    configuration = os.environ.get("SLURM_CONF")
    with clean_env():
        if configuration is not None:
            os.environ["SLURM_CONF"] = configuration
        yield


def _checked_setup(commands: Sequence[str]) -> list[str]:
    """Return lines of the batch script before the processes are started; a command that fails ends the job."""
    lines: list[str] = []
    for command in commands:
        failed = shlex.quote(f"setup failed: {command}")
        lines += [command, f"[ $? -eq 0 ] || {{ echo {failed} >&2; exit 1; }}"]
    return lines


def _checked_end(folder: Path) -> list[str]:
    """Return lines for the end of the batch script: a job whose process ended early has failed, whatever its exit code.

    submitit writes a result for each process that came to its end.
    """
    result = f'{shlex.quote(str(folder))}/"$job/${{job}}_0_result.pkl"'
    return [
        "code=$?",
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}",
        f"[ $code -ne 0 ] || [ -e {result} ] || {{ echo 'the process exited before its work was done' >&2; exit 1; }}",
        "exit $code",
    ]


def _reasons(text: str) -> str:
    """Return sbatch's errors in one line."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in text.splitlines() if "sbatch: " in line]
    reasons = [line.removeprefix("Batch job submission failed: ") for line in lines]
    return "; ".join(reasons) or " ".join(text.split())
