"""Runs as processes that are forked from a server which has imported everything once.

Each run is a process of its own, so a run that crashes, is killed or leaks does no harm to the others. The command uses
this on its own machine; a job of Slurm uses it for several runs (`--runs-per-job`).
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]
import submitit
from tqdm import tqdm

from autosparse.cluster import interruption, lease, provenance, worker
from autosparse.cluster.attempt import Attempt, requeue
from autosparse.cluster.job import Failure, Job, Stage, blocked, failure
from autosparse.cluster.progress import say
from autosparse.cluster.resources import Resources, count_gpus
from autosparse.errors import UserError
from autosparse.files import naming, read_record

if TYPE_CHECKING:
    from torch.distributed import TCPStore

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
            raise UserError(f"{len(names)} of {len(self.jobs)} runs failed: {' '.join(names)}")


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
                    running[place] = _Run(stage, job, resources.single() if stage.single else resources, place, at_once)
                    started += 1
                    say(f"[{started}/{len(jobs)}] started {job.folder}")
            counts = {"running": len(running), "waiting": sum(map(len, waiting.values())), "failed": len(failures)}
            bar.set_postfix_str(", ".join(f"{count} {state}" for state, count in counts.items() if count))
            processes = [process for run in running.values() for process in run.processes]
            connection.wait([process.sentinel for process in processes if process.exitcode is None], timeout=0.2)
            for place, ended in [(place, run) for place, run in running.items() if run.has_ended()]:
                del running[place]
                free.append(place)
                bar.update()
                unfinished[ended.stage.name] -= 1
                if error := failure(ended.job, ended.log):
                    say(f"failed: {ended.job.folder}")
                    failed.add(ended.stage.name)
                    failures.append(error)
    return failures


class _Run:
    """The processes of one run, and the store by which several of them find each other."""

    def __init__(self, stage: Stage, job: Job, resources: Resources, place: int, at_once: int) -> None:
        self.stage, self.job = stage, job
        self.log = job.folder / "logs" / "output.log"
        with naming(self.log):
            self.log.parent.mkdir(parents=True, exist_ok=True)
        in_slurm = "SUBMITIT_EXECUTOR" in os.environ
        if not in_slurm:
            provenance.write_submission(job, None, str(self.log))
        attempt = Attempt(
            job,
            resources.threads(at_once),
            resources.requeues,
            forked=True,
            gpu_fraction=1 / (resources.runs_per_gpu or 1),
        )
        environment = {**os.environ, **_gpus_of(place, resources)}
        work = cloudpickle.dumps(attempt)
        self._store, ranks = _process_group(resources.tasks)
        self.processes = [_fork(work, {**environment, **rank}, self.log) for rank in ranks]
        self._ends = time.monotonic() + 60 * resources.minutes if resources.time and not in_slurm else None
        self._failed: float | None = None

    def has_ended(self) -> bool:
        """Return True if no process of the run is left; stop it at its time limit, or some time after one failed."""
        ended = [process for process in self.processes if not _is_alive(process)]
        alive, now = len(ended) < len(self.processes), time.monotonic()
        if self._ends and now > self._ends:
            self._ends = None
            self.signal(signal.SIGTERM)
        if alive and any(process.exitcode for process in ended):
            self._failed = self._failed or now
            if now > self._failed + _PATIENCE:
                self.signal(signal.SIGKILL)
        return not alive

    def signal(self, number: int) -> None:
        """Send a signal to the processes."""
        for process in self.processes:
            if _is_alive(process) and process.pid:
                os.kill(process.pid, number)


def _is_alive(process: ForkServerProcess) -> bool:
    """Return True if a process has not ended. Without its server, which may be killed, `exitcode` does not know."""
    return process.exitcode is None or lease.start_of(process.pid or 0) is not None


def _fork(work: bytes, environment: Mapping[str, str], log: Path) -> ForkServerProcess:
    """Start a process that runs pickled work; see `worker.run_forked`."""
    while True:
        process = _FORKS.Process(target=worker.run_forked, args=(work, environment, log))
        try:
            with _server_environment():
                process.start()
        except (EOFError, ConnectionError):  # The server was killed just now; the next start starts another.
            continue
        return process


@contextmanager
def _server_environment() -> Iterator[None]:
    """Within the block, a server that is started has one thread, and holds the signals that are meant for its runs.

    Runs do not import the script of this process, which `multiprocessing` would have them do.
    """
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


def _process_group(tasks: int) -> tuple["TCPStore | None", list[dict[str, str]]]:
    """Return the store by which the processes of a run meet, and the variables of each, as torchrun sets them."""
    if tasks == 1:
        return None, [{}]
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    common |= {"WORLD_SIZE": str(tasks), "LOCAL_WORLD_SIZE": str(tasks), "TORCHELASTIC_RUN_ID": "local"}
    return store, [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(tasks)]


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
            say(f"stopping {len(running)} runs at their next step; Ctrl-C ends them at once")
        try:
            for run in running.values():
                run.signal(signal.SIGTERM)
            while not all(run.has_ended() for run in running.values()):
                time.sleep(0.05)
        except BaseException:
            for run in running.values():
                run.signal(signal.SIGKILL)
            raise
