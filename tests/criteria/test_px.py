import pytest
import torch
from torch import nn

import autosparse
from autosparse.criteria import Scoring
from autosparse.criteria.px import px
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from tests.models import images


def test_against_dense_matrices() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    x = torch.randn(9, 6, dtype=torch.float64)
    batches = [(part, torch.zeros(len(part))) for part in x.split(4)]
    scores = px(model, Mask.full(Layout.of(model)), Scoring(batches))

    first, second, third = (model[k].weight.detach() for k in (0, 2, 4))
    before = x @ first.T + model[0].bias
    one = (before > 0).double()
    two = (before.relu() @ second.T + model[2].bias > 0).double()
    a, b, c = first.square(), second.square(), third.square()
    ones = [torch.ones_like(each) for each in (a, b, c)]
    carried = (((x.square() @ ones[0].T) * one) @ ones[1].T * two @ ones[2].T).sum(0)  # J
    unit = torch.ones(6, dtype=torch.float64)
    gradients = [  # of J · C B A 1
        torch.outer(b.T @ c.T @ carried, unit),
        torch.outer(c.T @ carried, a @ unit),
        torch.outer(carried, b @ a @ unit),
    ]
    expected = torch.cat([(g * w).flatten() for g, w in zip(gradients, (a, b, c), strict=True)])
    torch.testing.assert_close(scores, (expected / expected.max()).detach().float())


def test_through_convolutions_norms_and_pooling_in_place_or_not() -> None:
    def build(in_place: bool) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(in_place), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10)
        )

    one, other = (px(model, Mask.full(Layout.of(model)), Scoring(images())) for model in (build(True), build(False)))
    assert torch.equal(one, other)
    assert (one > 0).all()


@pytest.mark.parametrize("layer", [nn.GELU(), nn.LogSigmoid(), nn.Tanhshrink(), nn.Hardshrink(), nn.Softmin(1)])
def test_network_without_paths_of_relus_raises_naming_what_takes_it(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), layer, nn.Linear(9, 10))
    message = "px cannot prune this network: .*this computes [a-z_]+; snip, which runs a network as it is, may take it"
    with pytest.raises(UserError, match=message) as error:
        autosparse.prune(model, images(), criterion="px", sparsity=0.8)
    assert str(error.value).count("may take it") == 1
