"""Two processes train compiled and channels-last as one does without."""

from functools import partial

import torch
from torch import nn
from torch._dynamo.utils import counters

from autosparse.cluster import process
from autosparse.pruning import Layout, Mask
from autosparse.training import Recipe, train
from tests.models import digits
from tests.world import world


def compare() -> str:
    """Train plainly and compiled, and compare the weights of both and of both processes."""
    torch.compile = partial(torch.compile, backend="eager")  # needs no C++ compiler
    accelerator = process.start(1)
    data = digits(validation=0.0, rank=accelerator.process_index, world_size=2)
    found = []
    for fast in (False, True):
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)]
        model = nn.Sequential(*layers)
        layout = Layout.of(model)
        mask = Mask(layout, torch.rand(layout.size) < 0.3)
        recipe = Recipe(1, "nesterov", 0.01, batch_size=100, compile=fast, channels_last=fast)
        train(model, mask, data, recipe, accelerator)
        found.append(layout.flatten(layout.weights(model)).detach())
    assert not found[1][~mask.kept].any()
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
    everywhere = accelerator.gather(found[1][None])
    assert torch.equal(everywhere[0], everywhere[1])
    assert counters["stats"]["unique_graphs"] == 1, counters["stats"]
    process.finish(accelerator)
    return "done"


def test_two_processes_compile_their_network_and_hold_the_mask() -> None:
    assert world(2, compare) == ["done", "done"]
