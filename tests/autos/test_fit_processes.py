"""A fit on two processes, killed in the middle of an epoch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autosparse.autos import AutoS

SCRIPT = """
import sys
from pathlib import Path
from autosparse.autos import FitConfig, StoredSamples, fit
from autosparse.cluster import process
from autosparse.store import TripleStore
from autosparse.training import Checkpoint

accelerator = process.start(1)
run, folder, world, stop = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
assert accelerator.num_processes == world
steps = []

def die(done, counters):
    steps.append(done)
    if len(steps) == stop:
        raise SystemExit(7)

config = FitConfig(epochs=2, batch_size=1536, memory="64MB")
checkpoint = Checkpoint(folder / "checkpoint.pt", "fit", 0, write=accelerator.is_main_process)
autos = fit(StoredSamples([TripleStore.open(run)], config), accelerator, resume=checkpoint, progress=die)
if accelerator.is_main_process:
    autos.save(folder)
print("done", steps[0], sum(steps), flush=True)
process.finish(accelerator)
"""


def world(run: Path, folder: Path, size: int, stop: int, port: int) -> list[str]:
    """What each process says of its work, or the error that ended it."""
    folder.mkdir(exist_ok=True)
    processes = []
    for rank in range(size):
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {key: str(value) for key, value in group.items()} if size > 1 else {**os.environ}
        command = [sys.executable, "-c", SCRIPT, str(run), str(folder), str(size), str(stop)]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = [process.communicate() for process in processes]
    return [
        output.strip() or f"exit {process.returncode}: {errors[-800:]}"
        for process, (output, errors) in zip(processes, said, strict=True)
    ]


@pytest.fixture(scope="module")
def port() -> int:
    return 30000 + os.getpid() % 9000


def test_two_processes_killed_in_an_epoch_end_with_the_same_bits(irp_run: Path, port: int, tmp_path: Path) -> None:
    assert world(irp_run, tmp_path / "whole", 2, 0, port) == ["done 1 58"] * 2
    assert all(said.startswith("exit 7") for said in world(irp_run, tmp_path / "cut", 2, 40, port + 1))
    assert world(irp_run, tmp_path / "cut", 2, 0, port + 2) == ["done 39 58"] * 2
    for name in ("autos.safetensors", "autos.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_fit_goes_on_with_another_number_of_processes(irp_run: Path, port: int, tmp_path: Path) -> None:
    assert all(said.startswith("exit 7") for said in world(irp_run, tmp_path / "cut", 2, 20, port + 3))
    assert world(irp_run, tmp_path / "cut", 1, 0, port + 4) == ["done 19 58"]
    assert world(irp_run, tmp_path / "alone", 1, 0, port + 5) == ["done 1 58"]
    cut, alone = (AutoS.load(tmp_path / name).card["losses"] for name in ("cut", "alone"))
    assert cut == pytest.approx(alone, rel=0.1)  # the same batches, but batch norm saw half of them at a time
