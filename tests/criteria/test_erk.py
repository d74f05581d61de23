import pytest
import torch
from torch import nn

from autosparse.criteria import Scoring, make_criterion, select
from autosparse.criteria.data_free import erk_counts
from autosparse.networks import build
from autosparse.pruning import Layout, Mask

NETWORKS = {"lenet-300-100": (1, 28, 28), "resnet8": (3, 16, 16), "vgg7": (3, 16, 16)}


@pytest.mark.parametrize("density", [0.5, 0.01, 0.0005])
@pytest.mark.parametrize("network", NETWORKS)
def test_densities_are_those_of_the_formula(network: str, density: float) -> None:
    layout = Layout.of(build(network, NETWORKS[network]))
    k = round(density * layout.size)
    sizes = [layer.size for layer in layout.layers]
    counts = erk_counts(layout, k, sizes)
    assert sum(counts) == k
    raw = [sum(layer.shape) / layer.size for layer in layout.layers]  # (n_in + n_out + kernel) / product
    low, high = 0.0, 1e9  # the same ε by bisection
    for _ in range(200):
        epsilon = (low + high) / 2
        kept = sum(min(1.0, epsilon * r) * size for r, size in zip(raw, sizes, strict=True))
        low, high = (epsilon, high) if kept < k else (low, epsilon)
    for count, r, size in zip(counts, raw, sizes, strict=True):
        assert abs(count - min(1.0, high * r) * size) < 1.01


def test_what_is_left_of_a_layer_bounds_it(model: nn.Module) -> None:
    layout = Layout.of(model)
    assert erk_counts(layout, 600, [50, 30_000, 1_000])[0] == 50
    assert erk_counts(layout, layout.size, [layer.size for layer in layout.layers]) == [
        layer.size for layer in layout.layers
    ]


def test_the_mask_has_the_counts_and_only_what_is_alive(model: nn.Module) -> None:
    layout = Layout.of(model)
    alive = Mask(layout, torch.rand(layout.size, generator=torch.Generator().manual_seed(0)) < 0.5)
    capacities = [int(kept.sum()) for kept in layout.unflatten(alive.kept).values()]
    mask = select(make_criterion("random-erk"), model, alive, Scoring(), 5_000)
    counts = [int(kept.sum()) for kept in layout.unflatten(mask.kept).values()]
    assert counts == erk_counts(layout, 5_000, capacities)
    assert not (mask.kept & ~alive.kept).any()
