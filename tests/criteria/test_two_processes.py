"""Every criterion gives one process and two the same scores, and both of two the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autosparse.criteria import CRITERIA

SCRIPT = """
import sys
import torch
from torch import nn
from autosparse.cluster import process
from autosparse.criteria import CRITERIA, Targeted, make_criterion, select
from autosparse.data import ImageData, load
from autosparse.pruning import Layout, Mask

accelerator = process.start(1)
rank, world = accelerator.process_index, accelerator.num_processes
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(256, 10)
)
batches = ImageData(load("digits"), rank=rank, world_size=world).scoring(100, limit=3)
full, k, found = Mask.full(Layout.of(model)), 260, {}
for name in CRITERIA:
    criterion = make_criterion(name)
    score = criterion.at(k) if isinstance(criterion, Targeted) else criterion
    found[name] = score(model, full, batches), select(criterion, model, full, batches, k).kept
torch.save(found, f"{sys.argv[1]}/{world}-{rank}.pt")
process.finish(accelerator)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """Scores and masks of one process, and of each of two."""
    folder: Path = tmp_path_factory.mktemp("worlds")
    port = 31000 + os.getpid() % 9000
    processes = []
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1"}
        group |= {"MASTER_PORT": port + world, "OMP_NUM_THREADS": 1}
        environment = os.environ | {key: str(value) for key, value in group.items()}
        command = [sys.executable, "-c", SCRIPT, str(folder)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors[-2000:]
    return [torch.load(folder / f"{name}.pt") for name in ("1-0", "2-0", "2-1")]


@pytest.mark.parametrize("name", CRITERIA)
def test_one_and_two_processes_score_alike(name: str, found: list[dict[str, tuple[Tensor, Tensor]]]) -> None:
    (one, kept), *two = (world[name] for world in found)
    assert torch.equal(two[0][1], two[1][1])
    scale = one[one.isfinite()].abs().max().item()
    for scores, mask in two:
        torch.testing.assert_close(scores, one, rtol=1e-6, atol=1e-6 * scale)
        assert torch.equal(mask, kept)
