import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn

import autosparse
from autosparse.criteria import Scoring, make_criterion, select
from autosparse.criteria.data_free import erk_counts
from autosparse.criteria.npb import NPB, Channels, balance, deal
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask

BATCH = [(torch.zeros(2, 3, 12, 12), torch.zeros(2, dtype=torch.int64))]


class Branches(nn.Module):
    """Groups, a transposed convolution, a shortcut, norms and activations that are no path counters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU6(inplace=True))
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.shortcut = nn.Conv2d(8, 16, 1)
        self.up = nn.Sequential(nn.Tanh(), nn.ConvTranspose2d(16, 4, 2, stride=2, groups=2), nn.AvgPool2d(4))
        self.head = nn.Linear(4 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.up(self.depthwise(x) + self.shortcut(x)).flatten(1))


@pytest.mark.parametrize("alpha", [0.01, 0.99])
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("count", [5, 40, 100])
def test_optimum_of_the_small_problem_is_that_of_the_whole_matrix(count: int, beta: float, alpha: float) -> None:
    inputs, outputs, kernel = 7, 5, 4
    channels = Channels.of(nn.Conv2d(inputs, outputs, 2), (outputs, inputs, 2, 2))
    paths = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 0.0, 2.0])
    units = balance(channels, paths, count, alpha, beta)
    mask = deal(channels, units, np.random.Generator(np.random.PCG64(0)))
    matrix = mask[0].sum(2)
    assert matrix.sum() == count
    assert np.array_equal(matrix.sum(1), units)

    # the whole matrix of kernels, its kernels in use, inputs in use and outputs in use
    size = inputs * outputs
    carried = sum(sorted(np.repeat(paths, outputs * kernel), reverse=True)[:count])
    node = alpha / (inputs + outputs)
    gain = np.concatenate(
        [
            np.repeat((1 - alpha) * paths / carried, outputs),
            np.full(size, beta / count),
            node * (paths > 0),
            np.full(outputs, node),
        ]
    )
    on_path = np.repeat(paths > 0, outputs)
    rows, columns = np.repeat(np.eye(inputs), outputs, 1), np.tile(np.eye(outputs), inputs) * on_path
    none, eye = np.zeros, np.eye
    constraints = np.vstack(
        [
            np.hstack([eye(size), -eye(size), none((size, inputs + outputs))]),
            np.hstack([rows, none((inputs, size)), -eye(inputs), none((inputs, outputs))]),
            np.hstack([columns, none((outputs, size + inputs)), -eye(outputs)]),
        ]
    )
    total = np.concatenate([np.ones(size), none(size + inputs + outputs)])
    best = milp(
        -gain,
        integrality=np.ones(len(gain)),
        bounds=Bounds(0, np.concatenate([np.full(size, kernel), np.ones(len(gain) - size)])),
        constraints=[LinearConstraint(constraints, 0), LinearConstraint(total, count, count)],
    )
    effective = matrix[paths > 0].sum(0)
    value = node * ((units[paths > 0] > 0).sum() + (effective > 0).sum()) + beta * (matrix > 0).sum() / count
    value += (1 - alpha) * (paths @ units) / carried
    assert value == pytest.approx(-best.fun, rel=1e-6)


@pytest.mark.parametrize("sparsity", [0.5, 0.97])
@pytest.mark.parametrize("name", ["npb", "npb-tiny-imagenet"])
def test_the_counts_of_each_layer_are_met_and_weights_lie_on_paths(name: str, sparsity: float) -> None:
    torch.manual_seed(0)
    mask = autosparse.prune(Branches(), BATCH, criterion=name, sparsity=sparsity)
    kept = mask.layout.unflatten(mask.kept)
    counts = [int(part.sum()) for part in kept.values()]
    assert counts == erk_counts(mask.layout, mask.count, [layer.size for layer in mask.layout.layers])
    head = kept["head.weight"].view(10, 4, 36)  # what the head looks at is there, and what is there it looks at
    up = kept["up.1.weight"].view(2, 8, 2, 4)  # group, input, output, position
    assert name != "npb" or torch.equal(up.any(3).any(1).view(4), head.any(2).any(0))


def test_more_weight_on_nodes_keeps_more_of_them(model: nn.Module) -> None:
    full = Mask.full(Layout.of(model))
    batch = [(torch.zeros(1, 1, 8, 8), torch.zeros(1))]

    def used(alpha: float) -> int:
        kept = select(NPB(0, alpha), model, full, Scoring(batch), 2_000)
        return int(full.layout.unflatten(kept.kept)["fc2.weight"].any(0).sum())

    assert used(0.01) < used(0.99) == 300


@pytest.mark.parametrize("cap", [1, 2, 3])
@pytest.mark.parametrize("module", [nn.Conv2d(6, 10, 2), nn.ConvTranspose2d(6, 10, 2, groups=2)])
def test_no_kernel_has_more_than_the_cap_but_where_the_count_needs_it(module: nn.Conv2d, cap: int) -> None:
    channels = Channels.of(module, tuple(module.weight.shape))
    paths, generator = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 0.0]), np.random.Generator(np.random.PCG64(0))
    for count in (5, channels.kernels, cap * channels.kernels, 4 * channels.kernels - 1):
        mask = deal(channels, balance(channels, paths, count, 0.01, 2.0, cap), generator)
        assert mask.sum() == count
        assert mask.sum(3).max() <= max(cap, -(-count // channels.kernels))


def test_a_layer_in_pieces_keeps_as_many() -> None:
    channels, paths, count = Channels.of(nn.Conv2d(60, 40, 3), (40, 60, 3, 3)), np.arange(60.0), 2_401
    authors = make_criterion("npb-tiny-imagenet", 3)
    assert authors == NPB(3, alpha=0.01, beta=2.0, cap=6, chunk=16)
    whole, pieces, unrestricted = (
        npb.keep_layer(channels, paths, count, npb.cap, np.random.Generator(np.random.PCG64(0)))
        for npb in (NPB(0), authors, NPB(0, cap=9, chunk=1000))
    )
    parts = [part.sum() for part in np.split(pieces[0].sum((0, 2)), [16, 32])]
    assert pieces.sum() == count
    assert np.abs(np.subtract(parts, np.multiply(count / 40, [16, 16, 8]))).max() < 1
    assert pieces.sum(3).max() <= 6
    assert np.array_equal(unrestricted, whole)


def test_pruned_network_raises(model: nn.Module) -> None:
    layout = Layout.of(model)
    with pytest.raises(UserError, match="pruned already"):
        select(NPB(0), model, Mask(layout, torch.arange(layout.size) > 5), Scoring(BATCH), 100)
