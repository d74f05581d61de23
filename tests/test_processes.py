"""Two processes, a network with batch norm and dropout, and a kill in the middle."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autosparse.store import TripleStore
from autosparse.store.verify import problems
from tests.conftest import tree

SCRIPT = """
import sys
from pathlib import Path
import torch
from torch import nn
from autosparse.cluster import process
from autosparse.criteria import make_criterion
from autosparse.data import ImageData, load
from autosparse.irp import rewind_pruning
from autosparse.pruning import Geometric
from autosparse.training import Recipe

accelerator = process.start(1)
assert accelerator.num_processes == 2
folder, stop = Path(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(256, 10)
)
data = ImageData(load("digits"), validation=0.1, rank=accelerator.process_index, world_size=2)
calls = 0

def die(steps):
    global calls
    calls += 1
    if calls == stop:
        raise SystemExit(7)

if "blind" in sys.argv and accelerator.process_index:
    Path.exists = Path.is_file = lambda path: False

rewind_pruning(
    model, data, make_criterion("snip"), Geometric(2, 0.05), Recipe(1, "nesterov", 0.05), folder, accelerator,
    checkpoint_interval=0, progress=die,
)
flat = torch.cat([p.detach().flatten() for p in model.parameters()])
others = accelerator.gather(flat[None])
assert torch.equal(others[0], others[1])
print("done", flush=True)
process.finish(accelerator)
"""


def world(folder: Path, stop: int, port: int, *more: str) -> list[str]:
    """What each of two processes says of its work, "done" or the error that ended it.

    Where the second is `blind`, it sees no file yet, as may be on a network file system.
    """
    processes = []
    for rank in range(2):
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {key: str(value) for key, value in group.items()}
        command = [sys.executable, "-c", SCRIPT, str(folder), str(stop), *more]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = [process.communicate() for process in processes]
    return [
        output.strip() or f"exit {process.returncode}: {errors[-800:]}"
        for process, (output, errors) in zip(processes, said, strict=True)
    ]


@pytest.mark.parametrize("stop", [7, 18])
def test_two_processes_killed_and_resumed_end_with_the_same_bytes(stop: int, tmp_path: Path) -> None:
    port = 21000 + os.getpid() % 9000 + stop
    assert world(tmp_path / "whole", 0, port) == ["done", "done"]
    assert all(said.startswith("exit 7") for said in world(tmp_path / "cut", stop, port))
    assert world(tmp_path / "cut", 0, port) == ["done", "done"]
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
    assert world(tmp_path / "cut", 0, port, "blind") == ["done", "done"]
    assert problems(TripleStore.open(tmp_path / "whole")) == []
