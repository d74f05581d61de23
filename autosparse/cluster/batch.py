"""Batch scripts and their submission, through submitit: one array a command, one Slurm task a GPU."""

import contextlib
import io
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, JobPaths
from submitit.helpers import clean_env, environment_variables

from autosparse.cluster import interruption, slurm
from autosparse.cluster.resources import DEFAULT_CPUS, DEFAULT_PARALLELISM, DEFAULT_REQUEUES, Resources
from autosparse.errors import UserError

# submitit guesses by its own idea of the time limit whether a signal means that time is up, always so below 10 minutes,
# and then gives up jobs that were only preempted; so it gets a limit that is never near
_NO_LIMIT = 10**6  # minutes

# reasons for which a job would be pending for ever
_NEVER = re.compile(r"Partition(Config|TimeLimit|NodeLimit)|BadConstraints|Invalid(Account|QOS)|.*PerJob(Limit)?")

# the commands of Slurm that a submission uses, for a dry run
_STAND_IN = {
    "srun": "",  # submitit looks whether there is one
    "sbatch": 'n=$(($(cat "$0.n" 2>/dev/null || echo 0) + 1)); echo $n >"$0.n"; echo "Submitted batch job $n"',
    "squeue": "",
    "scancel": "",
}


class Submitted(NamedTuple):
    """A job in the queue."""

    job_id: str
    """`4242_3` in an array, else `4242`."""
    script: Path
    """Its batch script."""
    log: Path
    """What its first process writes to standard error."""


def submit(tasks: Sequence[Callable[[], Any]], resources: Resources, name: str, folder: Path) -> list[Submitted]:
    """Submit tasks as one array, or as a few where the site does not take one so large, each after the last.

    Args:
        tasks: what each job calls, in each of its processes.
        resources: of each job.
        name: in the queue.
        folder: new, for what submitit writes.

    Raises:
        UserError: Slurm refuses, saying why, or would never start them; none of them is in the queue then.
    """
    limit = slurm.max_array_size() if len(tasks) > 1 else None
    size = len(tasks) if limit is None else max(1, limit)  # 0: no arrays
    submitted: list[Submitted] = []
    try:
        for start in range(0, len(tasks), size):
            previous = submitted[-1].job_id.split("_")[0] if submitted else None
            submitted += _submit_part(tasks[start : start + size], resources, name, folder, previous)
        state = (slurm.queue() or {}).get(submitted[0].job_id)
        if state and _NEVER.fullmatch(state.reason):
            raise UserError(f"Slurm would never start it: {state.reason} (asked for {resources.request})")
    except BaseException:
        slurm.cancel([each.job_id for each in submitted])
        raise
    return submitted


@contextlib.contextmanager
def rehearsal() -> Iterator[str]:
    """Where nothing is submitted, also where there is no Slurm: its commands only answer, with job ids 1, 2, ...

    Yields a scratch folder, for `submit` to write below.
    """
    with tempfile.TemporaryDirectory(prefix="autosparse-dry-run-") as scratch:
        for program, text in _STAND_IN.items():
            path = Path(scratch, program)
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
        with environment_variables(PATH=f"{scratch}:{os.environ['PATH']}"):
            yield scratch


def parameters(resources: Resources, name: str, previous: str | None = None) -> dict[str, Any]:
    """For submitit's Slurm executor.

    Args:
        resources: of each job.
        name: in the queue.
        previous: job id of an array that is to end first, well or not.
    """
    cpus = resources.cpus_per_task or DEFAULT_CPUS
    requeues = DEFAULT_REQUEUES if resources.max_requeues is None else resources.max_requeues
    after = [f"afterok:{':'.join(resources.after)}"] * bool(resources.after) + [f"afterany:{previous}"] * bool(previous)
    wanted = {
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
        "signal_delay_s": min(90, 15 * resources.minutes),  # Slurm may send it up to half a minute earlier
        "setup": _checked_setup(resources.setup) or None,
        # srun does not inherit --cpus-per-task since Slurm 22.05; one dead rank must not leave the others waiting
        "srun_args": [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1"],
        "additional_parameters": {
            "time": resources.minutes,
            "requeue" if requeues else "no-requeue": True,
            # a job whose dependency has failed is cancelled: it would be pending for ever otherwise
            **({"kill-on-invalid-dep": "yes"} if resources.after else {}),
            **resources.slurm_options,
        },
    }
    # submitit sends a wckey of its own, which sites that do not track them refuse
    return {key: value for key, value in wanted.items() if value is not None} | {"wckey": None}


def _submit_part(
    tasks: Sequence[Callable[[], Any]], resources: Resources, name: str, folder: Path, previous: str | None
) -> list[Submitted]:
    """One array, or a plain job where there is one task."""
    with _outside_of_any_job(), contextlib.redirect_stderr(io.StringIO()):  # submitit says there what it raises, too
        executor = submitit.SlurmExecutor(folder / "%j", python=interruption.PYTHON)
        executor.update_parameters(**parameters(resources, name, previous), teardown=_checked_end(folder))
        try:
            handles = executor.submit_array(tasks)
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(f"Slurm refuses: {_reasons(str(error))} (asked for {resources.request})") from None
    for handle in handles:  # nobody else writes to what will be loaded, whatever the umask
        pickle = handle.paths.submitted_pickle
        pickle.chmod(pickle.stat().st_mode & ~0o022)
    script = JobPaths(folder / "%j", handles[0].job_id.split("_")[0]).submission_file
    return [Submitted(handle.job_id, script, handle.task(0).paths.stderr) for handle in handles]


@contextlib.contextmanager
def _outside_of_any_job() -> Iterator[None]:
    """Without what a job's environment would hand on to jobs submitted from inside it: they would be tasks of its array
    and run its work. Which Slurm is asked stays.
    """
    configuration = os.environ.get("SLURM_CONF")
    with clean_env():
        if configuration is not None:
            os.environ["SLURM_CONF"] = configuration
        yield


def _checked_setup(commands: Sequence[str]) -> list[str]:
    """Lines of the batch script before the processes are started; each that fails ends the job, saying so."""
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
    """What sbatch says, in one line."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in text.splitlines() if "sbatch: " in line]
    reasons = [line.removeprefix("Batch job submission failed: ") for line in lines]
    return "; ".join(reasons) or " ".join(text.split())
