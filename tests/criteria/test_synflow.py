import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import autosparse
from autosparse.criteria import Scoring
from autosparse.criteria.rounds import Rounds
from autosparse.criteria.synflow import dataflow, synflow
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from autosparse.tasks import Data

ONE = [(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))]


@pytest.mark.parametrize("criterion", [synflow, dataflow])
def test_against_products_of_matrices(criterion: Callable[..., Tensor], model: nn.Module, data: Data) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.constant_(parameter, criterion is dataflow)  # dataflow leaves it out
    layout = Layout.of(model)
    a, b, c = (weight.detach().double().abs() for weight in layout.weights(model).values())
    images = torch.cat([inputs for inputs, _ in data.scoring(100)]).flatten(1).double()
    forward = [images.std(0, correction=0) if criterion is dataflow else torch.ones(64, dtype=torch.float64)]
    forward += [a @ forward[0], b @ (a @ forward[0])]
    backward = [c.sum(0) @ b, c.sum(0), torch.ones(10, dtype=torch.float64)]
    products = zip((a, b, c), backward, forward, strict=True)
    expected = torch.cat([(w * torch.outer(u, v)).view(-1) for w, u, v in products])
    scores = criterion(model, Mask.full(layout), Scoring(data.scoring(100)))
    torch.testing.assert_close(scores.double(), expected / expected.max(), rtol=1e-5, atol=1e-12)
    assert (forward[0] == 0).any() == (criterion is dataflow)  # some pixels are constant


def test_against_finite_differences_in_a_convolutional_network(convolutional: nn.Module) -> None:
    nn.init.normal_(convolutional[1].weight)
    nn.init.uniform_(convolutional[1].running_var, 0.5, 2)
    layout = Layout.of(convolutional)
    scores = synflow(convolutional, Mask.full(layout), Scoring(ONE))
    positive = copy.deepcopy(convolutional).double().eval()
    for tensor in positive.state_dict().values():
        tensor.abs_()
    ones = torch.ones(1, 1, 8, 8, dtype=torch.float64)

    def product(name: str, index: int) -> float:
        weight = positive.get_parameter(name).data.view(-1)
        value, ends = weight[index].item(), []
        for factor in (1 + 1e-4, 1 - 1e-4):
            weight[index] = value * factor
            ends.append(positive(ones).sum().item())
        weight[index] = value
        return (ends[0] - ends[1]) / 2e-4

    indices = [(layer, index) for layer in layout.layers for index in range(0, layer.size, layer.size // 9)]
    expected = torch.tensor([product(layer.name, index) for layer, index in indices])
    found = torch.stack([scores[layer.offset + index] for layer, index in indices])
    torch.testing.assert_close(found / found.max(), expected / expected.max(), rtol=1e-5, atol=1e-9)


def test_no_layer_collapses_where_one_shot_does(model: nn.Module, data: Data) -> None:
    rounds = autosparse.prune(model, data.scoring(100, 1), criterion="synflow", sparsity=0.998)
    assert rounds.count == round(0.002 * rounds.layout.size)
    assert not rounds.empty_layers()
    with pytest.warns(UserWarning, match=r"nothing is kept of layers fc1\.weight"):
        autosparse.prune(model, data.scoring(100, 1), criterion=synflow, sparsity=0.998)


def test_a_layer_that_a_round_has_removed_is_named(model: nn.Module, data: Data) -> None:
    with pytest.raises(UserError, match=r"earlier rounds removed all of fc1\.weight, fc2\.weight"):
        autosparse.prune(model, data.scoring(100, 1), criterion=Rounds(synflow, 2), sparsity=0.9999)


def test_scores_of_a_deep_network_stay_in_range() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(100, 100) for _ in range(60)])
    for layer in model:
        nn.init.normal_(layer.weight)  # R is near 1e114
    scores = synflow(model, Mask.full(Layout.of(model)), Scoring([(torch.zeros(1, 100), torch.zeros(1))]))
    assert scores.isfinite().all()
    assert (scores > 0).float().mean() > 0.99


def test_layer_with_infinite_outputs_is_named(model: nn.Module) -> None:
    nn.init.constant_(model.get_parameter("fc2.weight"), torch.inf)
    with pytest.raises(UserError, match="layer fc2 returns values that are not finite"):
        autosparse.prune(model, ONE, criterion="synflow", sparsity=0.5)


def test_no_batches_raise(model: nn.Module) -> None:
    with pytest.raises(UserError, match="at least one batch is needed"):
        autosparse.prune(model, [], criterion="synflow", sparsity=0.5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([torch.zeros(2, 1, 8, 8)], "those that were given are all the same, or only one"),
        ([torch.full((2, 1, 8, 8), torch.nan)], "the inputs or their embeddings are not finite"),
        ([torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 9, 9)], r"they are of shapes \(1, 8, 8\) and \(1, 9, 9\)"),
    ],
)
def test_inputs_that_dataflow_cannot_compare_raise(inputs: list[Tensor], message: str, model: nn.Module) -> None:
    with pytest.raises(UserError, match=message):
        autosparse.prune(model, [(x, torch.zeros(2)) for x in inputs], criterion="dataflow", sparsity=0.5)


class Gated(nn.Module):
    """Squeeze and excitation: a sigmoid gate."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.flatten(1)).relu()
        out: Tensor = self.last(h * self.gate(h).sigmoid())
        return out


@pytest.mark.parametrize(
    "network",
    [
        Gated(),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 10)),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU6(), nn.Linear(16, 16), nn.ReLU6(), nn.Linear(16, 10)),
    ],
    ids=["gate", "layer norm", "relu6"],
)
def test_flow_reaches_every_layer_whatever_its_activation(network: nn.Module, data: Data) -> None:
    layout = Layout.of(network)
    scores = dataflow(network, Mask.full(layout), Scoring(data.scoring(100)))
    assert scores.isfinite().all()
    assert scores.min() >= 0
    for part in layout.unflatten(scores).values():
        assert part.max() > 1e-3
