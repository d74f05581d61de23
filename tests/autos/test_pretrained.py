"""The criterion that comes with the package, on networks that the project does not know."""

import json

import pytest
import torch
import torchvision
from torch import nn

import autosparse
from autosparse.autos import AutoSCriterion, Surface
from autosparse.config import PRETRAINED, folder_of
from autosparse.criteria import Scoring, select
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask

FOLDER = folder_of(PRETRAINED)


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_1"])
def test_a_torchvision_model_in_five_lines(name: str) -> None:
    torch.set_num_threads(1)  # on a busy machine, two would wait for each other in every small convolution
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=10)
    batches = [(torch.randn(8, 3, 32, 32), torch.arange(8))]
    mask = autosparse.prune(model, batches, sparsity=0.9, rounds=3)
    mask.apply_(model)
    assert mask.count == round(0.1 * mask.layout.size)
    assert mask.empty_layers() == []
    assert min(mask.layer_densities().values()) >= 0.01
    model.train()
    loss = nn.functional.cross_entropy(model(batches[0][0]), batches[0][1])
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_what_is_pretrained() -> None:
    surface = Surface.load(FOLDER)
    assert surface.features.names == ("theta", "grad", "flow")
    assert surface.rounds == 30
    assert sum(path.stat().st_size for path in FOLDER.glob("surface.*")) < 500_000
    card = json.loads((FOLDER / "autos.json").read_text())["card"]
    assert {run["dataset"] for run in card["runs"]} == {"mnist", "fashion-mnist", "cifar10"}
    text = (FOLDER / "README.md").read_text()
    assert "python launch/paper.py pretrained --scale small" in text


def test_a_generator_is_refused_and_a_network_without_a_gradient(model: nn.Module) -> None:
    with pytest.raises(UserError, match="give a list or a DataLoader, not a generator"):
        autosparse.prune(model, iter([(torch.randn(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))]), sparsity=0.9)
    nn.init.zeros_(model.get_parameter("fc2.weight"))
    with pytest.raises(UserError, match=r"nothing flows through it to the outputs|zero everywhere"):
        autosparse.prune(model, [(torch.randn(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))], sparsity=0.9)


def test_one_shot_by_rounds(model: nn.Module) -> None:
    batches = [(torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10)]
    full = Mask.full(Layout.of(model))
    once = autosparse.prune(model, batches, sparsity=0.9, rounds=1)
    assert torch.equal(
        once.kept, select(AutoSCriterion(None, Surface.load(FOLDER), 1), model, full, Scoring(batches), 5020).kept
    )
    assert not torch.equal(once.kept, autosparse.prune(model, batches, sparsity=0.9).kept)
