"""Runs as processes that are forked from a server which has imported everything once.

Each run is a process of its own, so a run that crashes, is killed or leaks does no harm to the others. The command uses
this on its own machine; a job of Slurm uses it for several runs (`--runs-per-job`).
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, forkserver, resource_tracker
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import submitit
from tqdm import tqdm

from autosparse.cluster import interruption, process
from autosparse.cluster.attempt import Attempt, requeue
from autosparse.cluster.job import OUTPUT_LOG, Failure, Job, Stage, blocked, failure
from autosparse.cluster.records import say
from autosparse.cluster.resources import Resources, count_gpus
from autosparse.errors import UserError, counted
from autosparse.files import naming, read_record

_FORKS = multiprocessing.get_context("forkserver")
_PATIENCE = 30.0  # seconds that processes of a run get to notice that one of them has failed


@dataclass(frozen=True)
class Group:
    """Several runs as one job of Slurm.

    Attributes:
        jobs: the runs, which do not depend on one another.
        resources: resources of the job.
    """

    jobs: tuple[Job, ...]
    resources: Resources

    def __call__(self) -> None:
        """Run those that are not complete, except for runs that have failed in this job before it was queued again.

        Raises:
            UserError: runs failed, or Slurm stopped the job and does not queue it again.
        """
        job_id = submitit.JobEnvironment().job_id
        statuses = {job.folder: read_record(job.folder / "status.json") for job in self.jobs}
        failed = [
            job for job in self.jobs if statuses[job.folder].items() >= {"state": "failed", "job": job_id}.items()
        ]
        left = tuple(job for job in self.jobs if job not in failed)
        try:
            failures = run([Stage("runs", left)], self.resources.of_each_run())
        except KeyboardInterrupt:
            requeue(self.resources.requeues, main=True)
        if names := [*(job.folder.name for job in failed), *(each.job.folder.name for each in failures)]:
            raise UserError(f"{len(names)} of {counted(len(self.jobs), 'run')} failed: {' '.join(names)}")


def run(stages: Sequence[Stage], resources: Resources) -> list[Failure]:
    """Run the jobs of a graph to their end; a job that fails keeps only the stages after its own from running.

    Args:
        stages: stages, heads first; a job starts as soon as the stages before it are done and a place is free.
        resources: resources of each job.

    Raises:
        KeyboardInterrupt: a signal asked to stop; the jobs have stopped at a step.
    """
    jobs = [job for stage in stages for job in stage.jobs]
    forkserver.set_forkserver_preload(list(dict.fromkeys(name for job in jobs for name in job.imports())))
    with _server_environment():
        forkserver.ensure_running()  # It imports while this process does.
    at_once = min(resources.side_by_side(), len(jobs))
    waiting = {stage.name: list(stage.jobs) for stage in stages}
    unfinished = {stage.name: len(stage.jobs) for stage in stages}
    failures, failed, started = list[Failure](), set[str](), 0
    running, free = dict[int, _Run](), list(range(at_once))
    bar = tqdm(total=len(jobs), desc="runs", unit="run", disable=None, smoothing=0)
    with bar, interruption.listening(), _stopping(running):
        while running or any(waiting.values()):
            for stage in stages:
                queue = waiting[stage.name]
                if queue and (not_started := blocked(stage, failed)):
                    failed.add(stage.name)
                    failures += not_started
                    bar.update(len(queue))
                    queue.clear()
                while queue and free and not any(unfinished[name] for name in stage.after):
                    job, place = queue.pop(0), free.pop(0)
                    running[place] = _Run(stage, job, resources.single() if stage.single else resources, place, at_once)
                    started += 1
                    say(f"[{started}/{len(jobs)}] started {job.folder}")
            counts = {"running": len(running), "waiting": sum(map(len, waiting.values())), "failed": len(failures)}
            bar.set_postfix_str(", ".join(f"{count} {state}" for state, count in counts.items() if count))
            alive = [each for run in running.values() for each in run.processes if each.exitcode is None]
            connection.wait([each.sentinel for each in alive], timeout=0.2)
            if interruption.received():
                raise KeyboardInterrupt
            for place, ended in [(place, run) for place, run in running.items() if run.has_ended()]:
                del running[place]
                free.append(place)
                bar.update()
                unfinished[ended.stage.name] -= 1
                if error := failure(ended.job):
                    say(f"failed: {ended.job.folder}")
                    failed.add(ended.stage.name)
                    failures.append(error)
    return failures


class _Run:
    """The processes of one run."""

    def __init__(self, stage: Stage, job: Job, resources: Resources, place: int, at_once: int) -> None:
        self.stage, self.job = stage, job
        log = job.folder / OUTPUT_LOG
        with naming(log):
            log.parent.mkdir(parents=True, exist_ok=True)
        share = 1 / (resources.runs_per_gpu or 1)
        threads = resources.threads(at_once)
        work = cloudpickle.dumps(Attempt(job, threads, resources.requeues, forked=True, gpu_fraction=share))
        environment = {**os.environ, **_gpus_of(place, resources)}
        arguments = [(work, {**environment, **rank}, log) for rank in _process_group(resources.tasks)]
        self.processes = [_FORKS.Process(target=process.run_forked, args=each) for each in arguments]
        with _server_environment():
            for each in self.processes:
                each.start()
        limited = resources.time and "SUBMITIT_EXECUTOR" not in os.environ
        self._ends = time.monotonic() + 60 * resources.minutes if limited else None
        self._failed: float | None = None

    def has_ended(self) -> bool:
        """Return True if no process of the run is left; stop it at its time limit, or some time after one failed."""
        codes, now = [each.exitcode for each in self.processes], time.monotonic()
        if self._ends and now > self._ends:
            self._ends = None
            self.signal(signal.SIGTERM)
        if None in codes and any(codes):
            self._failed = self._failed or now
            if now > self._failed + _PATIENCE:
                self.signal(signal.SIGKILL)
        return None not in codes

    def signal(self, number: int) -> None:
        """Send a signal to the processes."""
        for each in self.processes:
            if each.exitcode is None and each.pid:
                os.kill(each.pid, number)


@contextmanager
def _server_environment() -> Iterator[None]:
    """Within the block, a server that is started has one thread, and holds the signals that are meant for its runs.

    Runs do not import the script of this process, which `multiprocessing` would have them do.
    """
    resource_tracker.ensure_running()  # Started together with the server, it would let the signals through.
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # NumPy's BLAS would start threads when it is imported.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, interruption.SIGNALS)
    script = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: script[name] for name in ("__spec__", "__file__") if name in script}
    script["__spec__"] = None
    script.pop("__file__", None)
    try:
        yield
    finally:
        script.update(hidden)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        del os.environ["OMP_NUM_THREADS"]
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads


def _process_group(tasks: int) -> list[dict[str, str]]:
    """Return the variables by which the processes of a run find each other, as torchrun sets them."""
    if tasks == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "local"}
    common |= {"WORLD_SIZE": str(tasks), "LOCAL_WORLD_SIZE": str(tasks)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(tasks)]


def _gpus_of(place: int, resources: Resources) -> dict[str, str]:
    """Return the variable that gives a run its GPUs; places that exceed the GPUs share them."""
    gpus = resources.local_gpus()
    names = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count_gpus())))
    visible = [name for name in names.split(",") if name]
    used = [visible[(place * gpus + k) % len(visible)] for k in range(gpus)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(used)}


@contextmanager
def _stopping(running: Mapping[int, _Run]) -> Iterator[None]:
    """Stop the runs that are left at the end of the block, each at its next step, and wait for them."""
    try:
        yield
    finally:
        if running:
            say(f"stopping {counted(len(running), 'run')} at the next step; Ctrl-C ends them at once")
        try:
            for run in running.values():
                run.signal(signal.SIGTERM)
            while not all(run.has_ended() for run in running.values()):
                time.sleep(0.05)
        except BaseException:
            for run in running.values():
                run.signal(signal.SIGKILL)
            raise
