"""Batch scripts and their submission through submitit: one array per stage, one Slurm task per GPU."""

import contextlib
import io
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, JobPaths
from submitit.helpers import clean_env

from autosparse.cluster import slurm, worker
from autosparse.cluster.resources import DEFAULT_CPUS, DEFAULT_PARALLELISM, Resources
from autosparse.errors import UserError

# submitit guesses from the time limit whether a signal means that time is up, always so below 10 minutes, and then
# gives up jobs that were only preempted; so it gets a limit that is never near.
_NO_LIMIT = 10**6  # minutes

_NEVER = re.compile(r"Partition(Config|TimeLimit|NodeLimit)|BadConstraints|Invalid(Account|QOS)|.*PerJob(Limit)?")
"""Reasons for which a job stays pending forever."""


class Submitted(NamedTuple):
    """A job in the queue."""

    job_id: str
    """`4242_3` in an array, else `4242`."""
    script: Path
    """Its batch script."""
    log: Path
    """Standard error of its first process."""


def submit(tasks: Sequence[Callable[[], Any]], resources: Resources, name: str, folder: Path) -> list[Submitted]:
    """Submit tasks as one array or, where the site's limit is lower, as several, each after the last.

    Args:
        tasks: function that each job calls in each of its processes.
        resources: resources of each job.
        name: name of the jobs in the queue.
        folder: new folder for submitit's files.

    Raises:
        UserError: Slurm refuses the jobs, or would never start them; none of them is in the queue then.
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
    """Return the batch scripts that `submit` would submit, as if the first job got the id `first_id`."""
    texts = []
    for number, part in enumerate(_parts(tasks)):
        executor = _executor(resources, name, folder, str(first_id + number - 1) if number else None)
        if len(part) > 1:
            executor.parameters["map_count"] = len(part)
        texts.append(executor._make_submission_file_text(executor._submitit_command_str, ""))
    return texts


def parameters(resources: Resources, name: str, previous: str | None = None) -> dict[str, Any]:
    """Return the parameters of submitit's Slurm executor.

    Args:
        resources: resources of each job.
        name: name of the jobs in the queue.
        previous: job id of an array that is to end first, well or not.
    """
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
    return [Submitted(job.job_id, script, job.task(0).paths.stderr) for job in jobs]


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
