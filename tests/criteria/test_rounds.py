import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosparse.criteria import Scoring, select
from autosparse.criteria.rounds import Rounds, spare
from autosparse.criteria.snip import Force, snip
from autosparse.errors import UserError
from autosparse.pruning import Layer, Layout, Mask, keep_top
from autosparse.tasks import Data

K, ROUNDS = 3_000, 4


def gradient(model: nn.Module, weights: dict[str, Tensor], data: Data) -> Tensor:
    """Another way to the gradient: of all samples at once, by torch.func."""
    x, y = (torch.cat(parts) for parts in zip(*data.scoring(100, limit=3), strict=True))

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, weights, (x,)), y)

    return torch.cat([g.flatten() for g in torch.func.grad(loss)(weights).values()])


@pytest.mark.parametrize("revive", [False, True])
def test_rounds_are_those_of_the_algorithm(revive: bool, model: nn.Module, data: Data) -> None:
    layout = Layout.of(model)
    full = Mask.full(layout)
    criterion = Force(ROUNDS) if revive else Rounds(snip, ROUNDS)
    found = select(criterion, model, full, Scoring(data.scoring(100, limit=3)), K)

    theta, masks = layout.flatten(layout.weights(model)), [full]
    for i in range(1, ROUNDS + 1):
        masked = theta * masks[-1].kept
        scores = gradient(model, layout.unflatten(masked), data) * (theta if revive else masked)
        k = round(layout.size ** (1 - i / ROUNDS) * K ** (i / ROUNDS))
        masks.append(keep_top(scores.abs(), k, full if revive else masks[-1]))
    assert (found.kept == masks[-1].kept).float().mean() > 0.9999
    assert found.count == K
    came_back = [bool((b.kept & ~a.kept).any()) for a, b in itertools.pairwise(masks)]
    assert any(came_back) == revive


def test_weights_are_put_back_after_an_error(model: nn.Module, data: Data) -> None:
    layout = Layout.of(model)
    before, calls = layout.flatten(layout.weights(model)), 0

    def failing(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise UserError("enough")
        return snip(model, mask, scoring)

    with pytest.raises(UserError, match="enough"):
        select(Rounds(failing, 5), model, Mask.full(layout), Scoring(data.scoring(100, limit=1)), K)
    assert torch.equal(layout.flatten(layout.weights(model)), before)


def test_spared_layers_keep_their_best() -> None:
    layout = Layout((Layer("a.weight", (10,), 0, 1, 1), Layer("b.weight", (90,), 10, 1, 1)))
    scores = torch.arange(100.0)
    assert spare(scores.clone(), 20, Mask.full(layout), 0.5) == ["a.weight"]
    spare(scores, 20, Mask.full(layout), 0.5)
    assert scores[:10].isinf().tolist() == [False] * 9 + [True]  # half of 20% of 10
    assert keep_top(scores, 20, Mask.full(layout)).layer_densities() == {"a.weight": 0.1, "b.weight": 19 / 90}
    three = Layout((Layer("a", (100,), 0, 1, 1), Layer("b", (100,), 100, 1, 1), Layer("c", (800,), 200, 1, 1)))
    scores = torch.cat([torch.zeros(100), torch.where(torch.arange(100) < 5, 1.0, 0.0), torch.full((800,), 2.0)])
    scores[295:] = 0.5  # 95 of c come first, then the five of b
    assert spare(scores, 100, Mask.full(three), 0.5) == ["a"]
    assert keep_top(scores, 100, Mask.full(three)).layer_densities() == {"a": 0.05, "b": 0.05, "c": 90 / 800}
    assert spare(torch.arange(100.0), 1, Mask.full(layout), 0.5) == []  # fewer weights than layers
    alive = Mask(layout, torch.arange(100) >= 10)
    assert spare(torch.arange(100.0), 20, alive, 0.5) == []  # it had lost them before
