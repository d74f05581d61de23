"""Jobs as processes of this machine, some at a time, each on GPUs of its own as long as there are enough."""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import submitit
from tqdm import tqdm

from autosparse.cluster import interruption, logs, outcome, provenance
from autosparse.cluster.attempt import Attempt
from autosparse.cluster.job import Job
from autosparse.cluster.outcome import Failure
from autosparse.cluster.resources import Resources, count_gpus
from autosparse.cluster.stage import Stage, blocked
from autosparse.errors import UserError


def run(stages: Sequence[Stage], resources: Resources, root: Path) -> list[Failure]:
    """Run the jobs of a graph to their end; one that fails keeps only the stages after its own from running.

    Args:
        stages: heads first; a job starts as soon as those before are done and there is a place for it.
        resources: of each job.
        root: folder of what submitit writes.

    Raises:
        KeyboardInterrupt: a signal asked to stop; the jobs have stopped at a step.
    """
    total = sum(len(stage.jobs) for stage in stages)
    at_once = min(resources.local_jobs(), total)
    gpus, there = resources.local_gpus(), _visible_gpus()
    logs.prune(root, "local", _Processes())
    provenance.write_plan(job for stage in stages for job in stage.jobs)
    free = list(range(at_once))
    waiting = {stage.name: list(stage.jobs) for stage in stages}
    left = {stage.name: len(stage.jobs) for stage in stages}
    submissions = {stage.name: _Submission(root, stage.name) for stage in stages}
    running = dict[int, tuple[Stage, Job, Any]]()
    failures, failed, started = list[Failure](), set[str](), 0
    bar = tqdm(total=total, desc="runs", unit="run", disable=None, smoothing=0)
    with bar, interruption.listening(), _stopping(running):
        while running or any(waiting.values()):
            if interruption.received():
                raise KeyboardInterrupt
            for stage in stages:
                queue = waiting[stage.name]
                if queue and (found := blocked(stage, failed)):
                    failed.add(stage.name)
                    failures += found
                    bar.update(len(queue))
                    queue.clear()
                while queue and free and not any(left[name] for name in stage.after):
                    job, place = queue.pop(0), free.pop(0)
                    visible = [there[(place * gpus + k) % len(there)] for k in range(gpus)]
                    own = resources.single() if stage.single else resources
                    handle = submissions[stage.name].start(job, own, own.local_cpus(at_once), visible)
                    running[place] = stage, job, handle
                    started += 1
                    outcome.say(f"[{started}/{total}] started {job.folder}")
            bar.set_postfix_str(f"{len(running)} running, {sum(map(len, waiting.values()))} waiting")
            for place, (stage, job, handle) in list(running.items()):
                if handle.done():
                    del running[place]
                    free.append(place)
                    bar.update()
                    left[stage.name] -= 1
                    if found := outcome.failures([(job, handle.task(0).paths.stderr)]):
                        failed.add(stage.name)
                        failures += found
            time.sleep(0.1)
    logs.prune(root, "local", _Processes())
    return failures


@contextmanager
def _stopping(running: Mapping[int, tuple[Stage, Job, Any]]) -> Iterator[None]:
    """Stop the jobs that still run at the end of the block, each at its next step, and wait for them."""
    try:
        yield
    finally:
        handles = [handle for *_, handle in running.values()]
        if handles:
            outcome.say(f"stopping {len(handles)} jobs at their next step; Ctrl-C ends them at once")
        for handle in handles:
            os.kill(int(handle.job_id), signal.SIGTERM)  # to submitit's process, which passes it on
        while not all(handle.done() for handle in handles):
            time.sleep(0.1)


class _Submission:
    """What submitit starts and writes for the jobs of a stage, in a folder that is there once the first has started."""

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        self._executor: submitit.LocalExecutor | None = None
        self._runs: dict[str, Path] = {}

    def start(self, job: Job, resources: Resources, cpus: int, gpus: list[int]) -> Any:
        """Start a job on some GPUs; return submitit's handle."""
        if self._executor is None:
            with logs.claimed(self._root, self._name) as self._folder:
                self._executor = submitit.LocalExecutor(self._folder / "%j", python=interruption.PYTHON)
        self._executor.update_parameters(
            timeout_min=resources.minutes, tasks_per_node=resources.tasks, gpus_per_node=len(gpus), visible_gpus=gpus
        )
        # A terminal sends these to all processes: they would end submitit's own in a traceback.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
        try:
            handle = self._executor.submit(Attempt(job, cpus))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._runs[handle.job_id] = job.folder
        logs.record(self._folder, "local", self._runs)
        provenance.write_submission(job, None, str(handle.task(0).paths.stderr))
        return handle


class _Processes:
    """The ids of all processes of this machine, which are the ids of submitit's local jobs."""

    def __contains__(self, job_id: object) -> bool:
        return Path(f"/proc/{job_id}").exists()


def _visible_gpus() -> list[int]:
    """The GPUs that this process may use, by the machine's numbers.

    Raises:
        UserError: CUDA_VISIBLE_DEVICES names them in another way.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not visible:
        return list(range(count_gpus()))
    if not all(part.strip().isdecimal() for part in visible.split(",")):
        raise UserError(f"the cluster local takes CUDA_VISIBLE_DEVICES as numbers, such as 0,1, got {visible}")
    return [int(part) for part in visible.split(",")]
