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

from autosparse.cluster import interruption, provenance, submissions, worker
from autosparse.cluster.attempt import Attempt
from autosparse.cluster.job import Failure, Job, Stage, blocked, failure
from autosparse.cluster.progress import say
from autosparse.cluster.resources import Resources, count_gpus
from autosparse.errors import UserError


def run(stages: Sequence[Stage], resources: Resources, root: Path) -> list[Failure]:
    """Run the jobs of a graph to their end; a job that fails keeps only the stages after its own from running.

    Args:
        stages: stages, heads first; a job starts as soon as the stages before it are done and a place is free.
        resources: resources of each job.
        root: folder of submitit's files.

    Raises:
        KeyboardInterrupt: a signal asked to stop; the jobs have stopped at a step.
    """
    total = sum(len(stage.jobs) for stage in stages)
    at_once = min(resources.local_jobs(), total)
    gpus, visible = resources.local_gpus(), _visible_gpus()
    submissions.prune(root, "local", _is_process)
    provenance.write_plan(job for stage in stages for job in stage.jobs)
    free = list(range(at_once))
    waiting = {stage.name: list(stage.jobs) for stage in stages}
    unfinished = {stage.name: len(stage.jobs) for stage in stages}
    starters = {stage.name: _Starter(root, stage.name) for stage in stages}
    running = dict[int, tuple[Stage, Job, Any]]()
    failures, failed, started = list[Failure](), set[str](), 0
    bar = tqdm(total=total, desc="runs", unit="run", disable=None, smoothing=0)
    with bar, interruption.listening(), _stopping(running):
        while running or any(waiting.values()):
            if interruption.received():
                raise KeyboardInterrupt
            for stage in stages:
                queue = waiting[stage.name]
                if queue and (not_started := blocked(stage, failed)):
                    failed.add(stage.name)
                    failures += not_started
                    bar.update(len(queue))
                    queue.clear()
                while queue and free and not any(unfinished[name] for name in stage.after):
                    job, place = queue.pop(0), free.pop(0)
                    used = [visible[(place * gpus + k) % len(visible)] for k in range(gpus)]
                    given = resources.single() if stage.single else resources
                    running[place] = stage, job, starters[stage.name].start(job, given, given.local_cpus(at_once), used)
                    started += 1
                    say(f"[{started}/{total}] started {job.folder}")
            bar.set_postfix_str(f"{len(running)} running, {sum(map(len, waiting.values()))} waiting")
            for place, (stage, job, process) in list(running.items()):
                if process.done():
                    del running[place]
                    free.append(place)
                    bar.update()
                    unfinished[stage.name] -= 1
                    if error := failure(job, process.task(0).paths.stderr):
                        failed.add(stage.name)
                        failures.append(error)
            time.sleep(0.1)
    submissions.prune(root, "local", _is_process)
    return failures


@contextmanager
def _stopping(running: Mapping[int, tuple[Stage, Job, Any]]) -> Iterator[None]:
    """Stop the jobs that still run at the end of the block, each at its next step, and wait for them."""
    try:
        yield
    finally:
        processes = [process for *_, process in running.values()]
        if processes:
            say(f"stopping {len(processes)} jobs at their next step; Ctrl-C ends them at once")
        for process in processes:
            os.kill(int(process.job_id), signal.SIGTERM)  # submitit's process passes it on.
        while not all(process.done() for process in processes):
            time.sleep(0.1)


class _Starter:
    """Starts the jobs of a stage through submitit; the folder of its files is made with the first job."""

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        self._executor: submitit.LocalExecutor | None = None
        self._runs: dict[str, Path] = {}

    def start(self, job: Job, resources: Resources, cpus: int, gpus: list[int]) -> Any:
        """Start a job on some GPUs; return submitit's job."""
        if self._executor is None:
            with submissions.claimed(self._root, self._name) as self._folder:
                self._executor = submitit.LocalExecutor(self._folder / "%j", python=worker.PYTHON)
        self._executor.update_parameters(
            timeout_min=resources.minutes, tasks_per_node=resources.tasks, gpus_per_node=len(gpus), visible_gpus=gpus
        )
        # A terminal sends these signals to all its processes: they would end submitit's in a traceback.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
        try:
            process = self._executor.submit(Attempt(job, cpus))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._runs[process.job_id] = job.folder
        submissions.record(self._folder, "local", self._runs)
        provenance.write_submission(job, None, str(process.task(0).paths.stderr))
        return process


def _is_process(job_id: str) -> bool:
    """Return True if a local job of submitit still runs: its id is that of its process."""
    return Path(f"/proc/{job_id}").exists()


def _visible_gpus() -> list[int]:
    """Return the GPUs that this process may use, by the machine's numbers."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not visible:
        return list(range(count_gpus()))
    if not all(part.strip().isdecimal() for part in visible.split(",")):
        raise UserError(f"the cluster local takes CUDA_VISIBLE_DEVICES as numbers, such as 0,1, got {visible}")
    return [int(part) for part in visible.split(",")]
