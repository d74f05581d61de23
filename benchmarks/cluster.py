"""What do jobs cost: more processes, checkpoints, submitting, watching, starting again?

The last three are measured on the sandbox (slurm/sandbox), a real Slurm on this machine, where its packages are there.
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from autosparse import networks
from autosparse.cluster import Resources, launch, slurm
from autosparse.command import run
from autosparse.config import IRPConfig
from autosparse.errors import UserError
from autosparse.files import write_json
from autosparse.jobs import IRPRun
from autosparse.jobs.base import TrainingOptions, TrainingRun
from autosparse.pruning import Layout, Mask
from autosparse.tasks import Images
from autosparse.training import Checkpoint, train
from benchmarks.common import goal, heading, median_seconds, row, scratch, seconds, table

ROOT = Path(__file__).parents[1]
COMMANDS = ("sbatch", "squeue", "scontrol", "sinfo", "scancel", "sacct")


@dataclass(frozen=True)
class Arguments:
    """Time training in 1 and 2 processes, checkpoints, and Slurm's part of the work."""

    dataset: str = "mnist5k"
    """Whose training is scaled."""
    networks: tuple[str, ...] = ("lenet-300-100", "resnet18")
    """Whose checkpoints are timed; the first is trained."""
    epochs: int = 3
    """Epochs timed, after one that is not."""
    jobs: int = 500
    """In the array that is submitted, and then watched."""
    repeats: int = 3
    """Number of repetitions of all but the training; the median counts."""
    slurm: bool = True
    """Measure what needs the sandbox."""
    folder: Path | None = None
    """Where to write (a folder of its own is made in it, and deleted); where temporary files go, if not given."""


@dataclass(frozen=True, kw_only=True)
class Training(TrainingRun):
    """Epochs of training, timed from inside a job."""

    kind = "training"

    epochs: int

    @property
    def folder(self) -> Path:
        return self.output / "training"

    def is_complete(self) -> bool:
        return (self.folder / "timed.json").is_file()

    def run(self, accelerator: Accelerator) -> None:
        model, data = self.setting.make(0, accelerator)
        mask = Mask.full(Layout.of(model), accelerator.device)

        def epochs(count: int) -> None:
            train(model, mask, data, self.setting.make_recipe().with_epochs(count), accelerator)

        epochs(1)
        took = seconds(lambda: epochs(self.epochs))
        if accelerator.is_main_process:
            steps = self.epochs * len(data.training(self.setting.make_recipe().batch_size))
            write_json(self.folder / "timed.json", {"steps": steps, "seconds": took})


def main(a: Arguments) -> None:
    """Time and print."""
    heading()
    with scratch(a.folder) as folder:
        step = _scaling(a, folder)
        _checkpoints(a, folder, step)
        if not a.slurm:
            return
        missing = [name for name in ("slurmctld", "slurmd", "sbatch") if not _program(name)]
        if missing:
            print(f"\nno {', '.join(missing)}: submission, watching and starting again are not measured")
            return
        with sandbox() as calls:
            _submission(a, folder, calls)
            _starting_again(a, folder)


def _scaling(a: Arguments, folder: Path) -> float:
    """Training in 1 and 2 processes of one thread each; returns the seconds of a step of one process."""
    setting = TrainingOptions(task=Images(network=a.networks[0], source=a.dataset))
    batch = setting.make_recipe().batch_size
    print(f"\n{a.networks[0]} on {a.dataset}, batches of {batch} cut over processes of one thread; {_cores()} cores\n")
    table("processes", "ms a step", "images/s", "to one process")
    found: list[float] = []
    for processes in (1, 2):
        job = Training(output=folder / str(processes), setting=setting, epochs=a.epochs)
        with contextlib.redirect_stdout(None), open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
            launch([job], Resources(**_local(processes)), job.output, "training")
        timed = json.loads((job.folder / "timed.json").read_text())
        found.append(timed["seconds"] / timed["steps"])
        row(str(processes), f"{1000 * found[-1]:.2f}", f"{batch / found[-1]:,.0f}", f"{found[0] / found[-1]:.2f}")
    return found[0]


def _checkpoints(a: Arguments, folder: Path, step: float) -> None:
    """Saving once in an interval, as a share of that interval's training."""
    interval = Checkpoint(folder / "checkpoint.pt", "none").interval
    print(f"\ncheckpoints of weights and optimizer, one every {interval:.0f} s\n")
    table("network", "MB", "ms to save", "per cent of the time")
    shares = []
    for name in a.networks:
        shape, classes = ((3, 32, 32), 10) if name != "lenet-300-100" else ((1, 28, 28), 10)
        model = networks.build(name, shape, classes)
        optimizer = torch.optim.Adam(model.parameters())
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        checkpoint = Checkpoint(folder / "checkpoint.pt", "none")
        position = {"epoch": 0, "step": 0, "history": [], "total": 0.0}
        took = median_seconds(lambda: checkpoint.save(model, optimizer, position), a.repeats)  # noqa: B023
        shares.append(100 * took / (interval + took))
        size = checkpoint.path.stat().st_size / 1e6
        row(name, f"{size:,.1f}", f"{1000 * took:,.1f}", f"{shares[-1]:.3f}")
    asking = 100 * median_seconds(lambda: [checkpoint.due() for _ in range(1000)], a.repeats) / 1000 / step
    row("asking after each step whether to", "", "", f"{asking:.3f}")
    print()
    goal(f"checkpoints under 2 per cent of the step time: {max(shares) + asking:.2f}", max(shares) + asking < 2)


def _submission(a: Arguments, folder: Path, calls: Callable[[], list[str]]) -> None:
    """Submitting an array that is held, looking at its runs, canceling it."""
    print("\narrays of runs that are held, imports included, on the sandbox\n")
    table("command", "runs", "seconds", "Slurm calls")
    found = {}
    for jobs in (2, a.jobs):
        output, words = folder / f"array-{jobs}", ["--dataset", "digits", "--gpus-per-node", "0", "--slurm", "hold"]
        seeds = ["--seeds", *map(str, range(jobs))]
        commands = {
            "irp.py": ["irp.py", *words, *seeds, "--output", str(output)],
            "runs.py status": ["runs.py", "status", str(output)],
            "runs.py cancel": ["runs.py", "cancel", str(output)],
        }
        for name, command in commands.items():
            calls()
            repeats = a.repeats if "status" in name else 1
            took = statistics.median(seconds(lambda: _script(command)) for _ in range(repeats))  # noqa: B023
            found[name, jobs] = took, len(calls()) / repeats
            row(f"launch/{name}", str(jobs), f"{took:.2f}", f"{found[name, jobs][1]:.0f}")
    submitting, asked = found["irp.py", a.jobs]
    looking, looked = found["runs.py status", a.jobs]
    print()
    goal(f"{a.jobs} jobs submitted in under 10 seconds: {submitting:.1f}", submitting < 10)
    goal(f"with as many Slurm calls as 2: {asked:.0f}", asked == found["irp.py", 2][1])
    goal(f"their status in under 2 seconds: {looking:.2f}", looking < 2)
    goal(f"with at most two Slurm calls: {looked:.0f}", looked <= 2)


def _starting_again(a: Arguments, folder: Path) -> None:
    """From the start of a job that was queued again to the end of its first iteration, of 13 steps."""
    print("\nlenet-300-100 on digits, queued again in the middle of its run, on the sandbox\n")
    table("requeue", "seconds from its start to the end of its first 13 steps")
    job = IRPRun(
        output=folder / "again",
        setting=TrainingOptions(task=Images(source="digits"), epochs=1),
        config=IRPConfig(iterations=10_000),
    )
    resources = Resources(cluster="slurm", partition="gpu", cpus_per_task=1)
    with contextlib.redirect_stdout(None), open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        launch([job], resources, job.output, "irp")
    job_id = json.loads((job.folder / "job.json").read_text())["job"]
    history, found = job.folder / "history.json", []

    def iterations() -> int:
        return len(json.loads(history.read_text())) if history.is_file() else 0

    def state() -> str:
        return (slurm.queue() or {})[job_id].state

    _until(lambda: iterations() > 3)
    for number in range(1, a.repeats + 1):
        subprocess.run(["scontrol", "requeue", job_id], check=True)
        _until(lambda: state() == "PENDING")
        before = iterations()
        _until(lambda: state() == "RUNNING")
        found.append(seconds(lambda: _until(lambda: iterations() > before)))  # noqa: B023
        row(str(number), f"{found[-1]:.1f}")
    slurm.cancel([job_id])
    _until(lambda: slurm.queue() == {})
    print()
    goal(f"computing again within 20 seconds: {statistics.median(found):.1f}", statistics.median(found) < 20)


@contextlib.contextmanager
def sandbox() -> Iterator[Callable[[], list[str]]]:
    """A cluster that all commands talk to; yields the calls of Slurm's commands since it was last asked."""
    folder = Path(tempfile.mkdtemp(prefix="autosparse-sandbox-"))  # its path may hold no blanks
    before = dict(os.environ)
    programs, noted = folder / "counting", folder / "calls"
    try:
        _call(ROOT / "slurm" / "sandbox", "start", folder)
        os.environ["SLURM_CONF"] = str(folder / "etc" / "slurm.conf")
        programs.mkdir()
        for name in COMMANDS:
            if real := _program(name):
                (programs / name).write_text(f'#!/bin/sh\necho {name} >>{noted}\nexec {real} "$@"\n')
                (programs / name).chmod(0o755)
        os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"

        def calls() -> list[str]:
            names = noted.read_text().split() if noted.exists() else []
            noted.write_text("")
            return names

        yield calls
    finally:
        _call(ROOT / "slurm" / "sandbox", "stop", folder)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _script(words: list[str]) -> None:
    command = [sys.executable, str(ROOT / "launch" / words[0]), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 3):  # 3: some wait
        raise UserError(f"launch/{words[0]} failed: {done.stderr}")


def _call(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{command[0]} {command[1]}: {done.stdout}{done.stderr}")


def _until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not what():
        if time.monotonic() > end:
            raise UserError("the sandbox does nothing any more")
        time.sleep(0.05)


def _local(processes: int) -> dict[str, Any]:
    gpus = torch.cuda.device_count() >= processes
    where = {"gpus_per_node": processes} if gpus else {"tasks_per_node": processes}
    return {"cluster": "local", "cpus_per_task": 1, **where}


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    run(Arguments, main)
