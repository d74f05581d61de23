"""The built-in criteria, on networks that the project does not know."""

import json

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import autosparse
from autosparse.autos import AutoSCriterion, LookupTable
from autosparse.config import PRETRAINED, folder_of
from autosparse.criteria import Scoring, select
from autosparse.pruning import Layout, Mask
from autosparse.tasks import Data

FOLDER = folder_of(PRETRAINED)


def test_torchvision_model_is_pruned_and_trains() -> None:
    torch.set_num_threads(1)  # On a busy machine, two threads would wait for each other in every small convolution.
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2(num_classes=10)
    batches = [(torch.randn(8, 3, 32, 32), torch.arange(8))]
    mask = autosparse.prune(model, batches, sparsity=0.9, rounds=3)
    mask.apply_(model)
    assert mask.count == round(0.1 * mask.layout.size)
    assert mask.empty_layers() == []
    assert min(mask.layer_densities().values()) >= 0.01
    loss = F.cross_entropy(model.train()(batches[0][0]), batches[0][1])
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_built_in_criterion_is_a_small_table() -> None:
    table = LookupTable.load(FOLDER)
    assert (table.features.names, table.rounds) == (("theta", "grad", "flow"), 30)
    assert sum(path.stat().st_size for path in FOLDER.glob("table.*")) < 500_000
    card = json.loads((FOLDER / "autos.json").read_text())["card"]
    assert {run["dataset"] for run in card["runs"]} == {"mnist", "fashion-mnist", "cifar10"}
    assert "autosparse paper pretrained --scale small" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("criterion", ["pretrained", "lookahead"])
def test_built_in_criterion_prunes_better_than_random(criterion: str, model: nn.Module, data: Data) -> None:
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    ahead = {"steps_per_round": 20, "optimizer": adam} if criterion == "lookahead" else {}
    accuracy = {}
    for name, options in (("random", {}), (criterion, ahead)):
        model.load_state_dict(initial)
        mask = autosparse.prune(model, data.scoring(256, 4), sparsity=0.98, criterion=name, **options)
        accuracy[name] = accuracy_after_training(model, mask, data)
    assert accuracy[criterion] > accuracy["random"] + 0.2


def adam(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=2e-3)  # type: ignore[arg-type]  # as given to OptimizerFactory


def accuracy_after_training(model: nn.Module, mask: Mask, data: Data) -> float:
    optimizer = adam(model.parameters())
    with mask.hold(model, optimizer):
        for _ in range(8):
            for inputs, targets in data.scoring(64):
                F.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
                optimizer.zero_grad()
    hits = [(model(inputs).argmax(1) == targets).float() for inputs, targets in data.evaluation("test")]
    return float(torch.cat(hits).mean())


def test_one_round_is_one_shot(model: nn.Module) -> None:
    batches = [(torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10)]
    full = Mask.full(Layout.of(model))
    once = autosparse.prune(model, batches, sparsity=0.9, rounds=1)
    assert torch.equal(once.kept, select(AutoSCriterion.load(FOLDER, 1), model, full, Scoring(batches), 5020).kept)
    assert not torch.equal(once.kept, autosparse.prune(model, batches, sparsity=0.9).kept)
