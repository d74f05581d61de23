import torch
from torch import Tensor, nn

from autosparse.criteria import Scoring
from autosparse.criteria.flow import Call, in_double
from autosparse.criteria.ntk_sap import drawing_gradient, ntk_sap
from autosparse.pruning import Layout, Mask

BATCH = Scoring([(torch.zeros(2, 1, 6, 6), torch.zeros(2, dtype=torch.int64))])


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)
    ).double()


def test_a_drawing_against_autograd_through_both_networks() -> None:
    model = tiny()
    layout = Layout.of(model)
    theta, noise, mask = ({} for _ in range(3))
    for layer in layout.layers:
        theta[layer.name] = torch.randn(layer.shape, dtype=torch.float64)
        noise[layer.name] = 0.01 * torch.randn(layer.shape, dtype=torch.float64)
        mask[layer.name] = (torch.rand(layer.shape) < 0.7).double()
    z = torch.randn(8, 1, 6, 6, dtype=torch.float64)
    found = drawing_gradient(model, in_double(model), theta, noise, mask, Call((z,), {}))

    m = {name: part.clone().requires_grad_() for name, part in mask.items()}
    conv, head = (layer.name for layer in layout.layers)

    def network(weights: dict[str, Tensor], statistics: tuple[Tensor, Tensor]) -> Tensor:
        hidden = nn.functional.conv2d(z, weights[conv] * m[conv])
        mean, variance = (part.view(1, 3, 1, 1) for part in statistics)
        hidden = ((hidden - mean) / (variance + 1e-5).sqrt()).relu()
        return hidden.flatten(1) @ (weights[head] * m[head]).T + model[4].bias

    first = nn.functional.conv2d(z, theta[conv] * mask[conv])
    statistics = first.mean((0, 2, 3)), first.var((0, 2, 3))
    moved = {name: theta[name] + noise[name] for name in theta}
    (network(theta, statistics) - network(moved, statistics)).square().sum().backward()
    for name, part in m.items():
        torch.testing.assert_close(found[name], part.grad, rtol=1e-9, atol=1e-12)


def test_it_draws_anew_in_every_round() -> None:
    model = tiny()
    full = Mask.full(Layout.of(model))
    later = Mask(full.layout, torch.arange(full.layout.size) > 0)
    one, other = (ntk_sap(model, mask, BATCH) for mask in (full, later))
    assert other[0] == 0
    assert not torch.allclose(other[1:], one[1:], rtol=0.05)


def test_it_looks_at_the_sizes_of_weights_not_at_the_weights() -> None:
    model, full = tiny(), Mask.full(Layout.of(tiny()))
    expected = ntk_sap(model, full, BATCH)
    with torch.no_grad():
        for weight in full.layout.weights(model).values():
            weight.copy_(weight.flatten()[torch.randperm(weight.numel())].view_as(weight))
    torch.testing.assert_close(ntk_sap(model, full, BATCH), expected)
