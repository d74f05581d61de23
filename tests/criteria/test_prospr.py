import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosparse.criteria import Scoring
from autosparse.criteria.prospr import prospr
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask

RATE = 0.3


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def samples(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(7, 5, dtype=torch.float64, generator=generator),
            torch.randint(3, (7,), generator=generator),
        )
        for _ in range(count)
    ]


def trained_loss(mask: list[Tensor], momentum: float) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The loss after three steps of torch's own SGD from θ ⊙ c; its gradient there, and θ."""
    model = tiny()
    weights = [model[0].weight, model[2].weight]
    theta = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, c in zip(weights, mask, strict=True):
            weight.mul_(c)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum)
    *steps, last = samples()
    for x, y in steps:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    loss = F.cross_entropy(model(last[0]), last[1])
    return loss.detach(), list(torch.autograd.grad(loss, weights)), theta


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_exact_against_finite_differences_of_a_training(momentum: float) -> None:
    full = Mask.full(Layout.of(tiny()))
    scores = prospr(tiny(), full, Scoring(samples()), learning_rate=RATE, momentum=momentum)
    expected = []
    step = 1e-5
    for layer, shape in enumerate([(4, 5), (3, 4)]):
        for index in range(shape[0] * shape[1]):
            values = []
            for sign in (1, -1):
                mask = [torch.ones(4, 5, dtype=torch.float64), torch.ones(3, 4, dtype=torch.float64)]
                mask[layer].view(-1)[index] += sign * step
                values.append(trained_loss(mask, momentum)[0])
            expected.append(abs(values[0] - values[1]) / (2 * step))
    torch.testing.assert_close(scores, torch.stack(expected).float(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_first_order_against_its_formula(momentum: float) -> None:
    full = Mask.full(Layout.of(tiny()))
    scores = prospr(tiny(), full, Scoring(samples()), learning_rate=RATE, momentum=momentum, first_order=True)
    ones = [torch.ones(4, 5, dtype=torch.float64), torch.ones(3, 4, dtype=torch.float64)]
    _, gradient, theta = trained_loss(ones, momentum)
    expected = torch.cat([(g * w).abs().flatten() for g, w in zip(gradient, theta, strict=True)])
    torch.testing.assert_close(scores, expected.float())


def test_fewer_batches_come_again() -> None:
    full, batches = Mask.full(Layout.of(tiny())), samples(2)
    assert torch.equal(prospr(tiny(), full, Scoring(batches)), prospr(tiny(), full, Scoring([*batches, *batches])))
    with pytest.raises(UserError, match="at least one batch"):
        prospr(tiny(), full, Scoring([]))


def test_what_is_removed_stays_so_in_the_steps() -> None:
    model = tiny()
    layout = Layout.of(model)
    mask = Mask(layout, torch.arange(layout.size) % 2 == 0)
    mask.apply_(model)
    scores = prospr(model, mask, Scoring(samples()), learning_rate=RATE)
    on_path = mask.kept.clone()
    on_path[5:10] = on_path[15:20] = False  # into hidden units 1 and 3, out of which nothing is left
    assert torch.equal(scores > 0, on_path)
