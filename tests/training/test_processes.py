"""Two processes train compiled and channels-last as one does without."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, has_compiler

SCRIPT = """
import torch
from torch import nn
from torch._dynamo.utils import counters
from autosparse.cluster import process
from tests.models import digits
from autosparse.pruning import Layout, Mask
from autosparse.training import Recipe, train

accelerator = process.start(1)
data = digits(validation=0.0, rank=accelerator.process_index, world_size=2)
found = []
for fast in (False, True):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
    )
    layout = Layout.of(model)
    mask = Mask(layout, torch.rand(layout.size) < 0.3)
    recipe = Recipe(1, "nesterov", 0.01, batch_size=100, compile=fast, channels_last=fast)
    train(model, mask, data, recipe, accelerator)
    found.append(layout.flatten(layout.weights(model)))
assert not found[1][~mask.kept].any()
torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
everywhere = accelerator.gather(found[1][None])
assert torch.equal(everywhere[0], everywhere[1])
assert counters["stats"]["unique_graphs"] == 1, counters["stats"]
process.finish(accelerator)
"""


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_two_processes_compile_their_network_and_hold_the_mask() -> None:
    processes = []
    for rank in range(2):
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
        group["TORCHELASTIC_RUN_ID"] = "none"  # as under torchrun
        group |= {"MASTER_PORT": 41000 + os.getpid() % 9000, "OMP_NUM_THREADS": 1}
        environment = os.environ | {key: str(value) for key, value in group.items()}
        command = [sys.executable, "-c", SCRIPT]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors[-2000:]
