"""What does a short run cost beyond its training, in a process of its own and forked from a server?

On Slurm, the same runs as one job each and as several runs per job, on the sandbox (slurm/sandbox).
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from autosparse.cluster import Resources, launch, slurm
from autosparse.command import run
from autosparse.config import PruneConfig
from autosparse.errors import UserError
from autosparse.jobs import PruneRun
from autosparse.jobs.base import TrainingOptions
from autosparse.tasks import Images
from benchmarks.cluster import ROOT, sandbox
from benchmarks.common import goal, heading, row, scratch, seconds, table


@dataclass(frozen=True)
class Arguments:
    """Time many runs of one epoch on digits."""

    runs: int = 40
    """Number of runs on this machine."""
    slurm_runs: int = 400
    """Number of runs on the sandbox; 0 leaves it out."""
    jobs: int = 8
    """Number of jobs of Slurm that share these runs."""
    runs_per_gpu: tuple[int, ...] = (1, 4, 8, 16)
    """Numbers of runs that share a GPU, where there is one."""
    folder: Path | None = None
    """Folder for the runs, which are deleted. Default: the folder of temporary files."""


def main(a: Arguments) -> None:
    """Time the runs and print tables."""
    heading()
    with scratch(a.folder) as folder:
        _locally(a, folder)
        if torch.cuda.is_available():
            _sharing(a, folder)
        if a.slurm_runs:
            _on_slurm(a, folder)


def runs_of(output: Path, count: int) -> list[PruneRun]:
    """Return prunings of one epoch from different seeds."""
    setting = TrainingOptions(task=Images(source="digits"), epochs=1)
    configs = [PruneConfig(criterion="random", sparsity=0.9, seed=seed) for seed in range(count)]
    return [PruneRun(output=output, setting=setting, config=config) for config in configs]


def _locally(a: Arguments, folder: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    print(f"\n{a.runs} runs of one epoch on digits, {cores} at once with one thread each\n")
    table("runs", "wall s", "CPU s", "training s of all", "s beyond the training, per run and core")
    beyond = []
    for name, work in (("in fresh processes", _fresh), ("forked from a server", _forked)):
        runs = runs_of(folder / name.replace(" ", "-"), a.runs)
        cpu = _cpu_seconds()
        wall = seconds(lambda: work(runs, cores))  # noqa: B023
        results = [json.loads((each.folder / "result.json").read_text()) for each in runs]
        training = sum(result["seconds"]["train"] for result in results)
        beyond.append((cores * wall - training) / a.runs)
        row(name, f"{wall:.1f}", f"{_cpu_seconds() - cpu:.1f}", f"{training:.1f}", f"{beyond[-1]:.2f}")
    print()
    ratio = beyond[0] / beyond[1]
    goal(f"a tenth of the time beyond the training, start of the command included: 1/{ratio:.1f}", ratio >= 10)


def _fresh(runs: list[PruneRun], at_once: int) -> None:
    """Run each in a Python of its own."""

    def start(one: PruneRun) -> None:
        words = ["--dataset", "digits", "--epochs", "1", "--criteria", "random", "--sparsities", "0.9"]
        words += ["--seeds", str(one.config.seed), "--cluster", "inline", "--output", str(one.output)]
        command = [sys.executable, str(ROOT / "launch" / "prune.py"), *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, check=True, capture_output=True)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(start, runs))


def _forked(runs: list[PruneRun], at_once: int) -> None:
    """Run all by one command."""
    _quietly(lambda: launch(runs, Resources(cluster="local", runs_at_once=at_once), runs[0].output, "prune"))


def _sharing(a: Arguments, folder: Path) -> None:
    print(f"\n{a.runs} such runs, several of which share each GPU\n")
    table("runs per GPU", "wall s", "s per run", "to one at a time")
    alone = 0.0
    for number in a.runs_per_gpu:
        runs = runs_of(folder / f"share-{number}", a.runs)
        resources = Resources(cluster="local", gpus_per_node=1, runs_per_gpu=number)
        wall = seconds(lambda: _quietly(lambda: launch(runs, resources, runs[0].output, "prune")))  # noqa: B023
        alone = alone or wall
        row(str(number), f"{wall:.1f}", f"{wall / a.runs:.2f}", f"{wall / alone:.2f}")


def _on_slurm(a: Arguments, folder: Path) -> None:
    print(f"\n{a.slurm_runs} such runs on the sandbox, jobs of two cores\n")
    table("jobs", "wall s", "CPU s of the machine", "Slurm calls")
    try:
        with sandbox() as calls:
            for per_job in (-(-a.slurm_runs // a.jobs), 1):
                runs = runs_of(folder / f"by-{per_job}", a.slurm_runs)
                resources = Resources(
                    partition="cpu",
                    gpus_per_node=0,
                    cpus_per_task=2 if per_job > 1 else 1,
                    runs_per_job=per_job,
                    array_parallelism=2,
                    wait=True,
                )
                calls()
                cpu, start = _cpu_seconds(), time.perf_counter()
                _quietly(lambda: launch(runs, resources, runs[0].output, "prune"))  # noqa: B023
                wall = time.perf_counter() - start
                jobs = -(-a.slurm_runs // per_job)
                row(str(jobs), f"{wall:.0f}", f"{_cpu_seconds() - cpu:.0f}", str(len(calls())))
                slurm.cancel(slurm.queue() or {})
    except UserError as error:
        print(f"\nnot measured: {error}")


def _quietly(work: Callable[[], None]) -> None:
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        work()


def _cpu_seconds() -> float:
    """Return the CPU seconds of all processes of this machine since it started."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    run(Arguments, main)
