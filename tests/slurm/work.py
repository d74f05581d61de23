"""What jobs of the tests do; light, where it can be: a job that imports PyTorch takes seconds to start."""

import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator

from autosparse.cluster.process import requeues
from autosparse.config import NO_IDENTITY
from autosparse.jobs import IRPRun
from tests.waiting import waiting


@dataclass(frozen=True)
class Stamp:
    """Sleeps, and notes when it ran and what the job is given; fails or leaves a thread if asked to."""

    path: Path
    seconds: float = 0.0
    fail: bool = False
    thread: bool = False

    def __call__(self) -> None:
        start = time.time()
        time.sleep(self.seconds)
        if self.fail:
            raise RuntimeError("as asked")
        if self.thread:
            threading.Thread(target=time.sleep, args=(600,)).start()
        given = ("SLURM_CPUS_PER_TASK", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "GREETING")
        seen = {name: os.environ.get(name) for name in given}
        with self.path.open("a") as file:
            file.write(json.dumps({"start": start, "end": time.time(), **seen}) + "\n")


def stamps(path: Path) -> list[dict]:
    """What stamped this file, one each time it did."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@dataclass(frozen=True)
class OneFails:
    """Of two processes, the second fails once the first waits for it."""

    folder: Path

    def __call__(self) -> None:
        waited = self.folder / "waited0"
        if os.environ["SLURM_PROCID"] == "0":
            waited.touch()
            time.sleep(600)
        while not waited.exists():
            time.sleep(0.1)
        raise RuntimeError("as asked")


@dataclass(frozen=True, kw_only=True)
class WorldRun(IRPRun):
    """A run of IRP that also notes what each of its processes is told."""

    def run(self, accelerator: Accelerator) -> None:
        told = [os.environ.get(name) for name in ("SLURM_NODEID", "SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES")]
        world = [accelerator.process_index, accelerator.num_processes, accelerator.local_process_index]
        (self.folder / "logs" / f"told{accelerator.process_index}.json").write_text(json.dumps([*world, *told]))
        super().run(accelerator)


@dataclass(frozen=True, kw_only=True)
class PatientRun(IRPRun):
    """A run of IRP whose first attempt waits, in the middle of an iteration, until it is stopped."""

    step: int = field(default=0, metadata=NO_IDENTITY)

    def run(self, accelerator: Accelerator) -> None:
        with waiting(0 if requeues() else self.step, self.folder / "logs" / "waiting"):
            super().run(accelerator)
