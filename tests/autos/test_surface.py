import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import autosparse
from autosparse.autos import (
    AutoS,
    AutoSCriterion,
    Features,
    Scale,
    StoredSamples,
    Surface,
    lookup,
    tabulate_held_out,
)
from autosparse.config import FitConfig
from autosparse.errors import UserError
from autosparse.pruning import Layer, Layout, Mask, keep_top
from autosparse.seeds import stream
from autosparse.store import TripleStore
from autosparse.tasks import Data
from tests.conftest import RUN

SPARSITIES = (0.5, 0.9, 0.98, 0.995)


class Bent(nn.Module):
    """Smooth but for a kink, and quick to evaluate."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, inputs: Tensor) -> Tensor:
        x, y = inputs[:, 0] * self.scale, inputs[:, 1] * self.scale if inputs.shape[1] > 1 else inputs[:, 0]
        bent = torch.sigmoid(x.abs() - 1) + 0.1 * torch.tanh(y - x)
        return bent + 0.1 * torch.tanh(inputs[:, 2]) if inputs.shape[1] == 3 else bent


def parameters(size: int = 20_000) -> tuple[Tensor, Tensor]:
    """Weights and gradients of a made-up network."""
    generator = torch.Generator().manual_seed(stream("test of surfaces", size))
    theta, grad, spread = torch.randn(3, size, generator=generator)
    return 0.05 * theta, 1e-3 * grad * spread


def bent(features: Features, steep: float = 1.0) -> AutoS:
    # raw values are small: the network must be steep for them to matter
    return AutoS(Bent(steep if features.transform == "scaled" else 30.0), "mlp", features)


def everything(size: int) -> Mask:
    return Mask.full(Layout((Layer("a.weight", (size,), 0, 1, 1),)))


NAMES = (("theta", "grad"), ("theta",), ("grad",))
ALL = [Features(transform, names) for transform in ("scaled", "raw") for names in NAMES]


@pytest.mark.parametrize("features", ALL, ids=lambda f: f"{f.transform}-{'+'.join(f.names)}")
def test_a_surface_is_near_its_network_and_refined_it_is_the_same(features: Features) -> None:
    autos, (theta, grad) = bent(features), parameters()
    surface = autos.surface(theta, grad, resolution=256, tolerance=0)
    assert surface.table.shape == (256,) * features.width
    assert surface.error["samples"] == 10_000
    other = tuple(3 * values if features.transform == "scaled" else values for values in parameters(30_000))
    expected, scores = autos.score(*other), surface.score(*other)
    _, outside = surface.read(*other, scale=Scale.of(*other))
    off = (scores - expected)[~outside].abs()
    assert off.max() < 1e-3
    assert off.max() < 2 * surface.error["max"]
    assert off.mean() == pytest.approx(surface.error["mean"], rel=0.3)
    full = everything(30_000)
    for sparsity in SPARSITIES:
        k = round((1 - sparsity) * 30_000)
        mask = keep_top(expected, k, full)
        assert torch.equal(surface.keep_top(*other, k=k, alive=full, autos=autos).kept, mask.kept)
        assert (surface.keep_top(*other, k=k, alive=full).kept & mask.kept).sum() > 0.98 * k


def test_the_error_falls_with_the_resolution_until_it_is_tolerable() -> None:
    autos, sample = bent(Features()), parameters()
    errors = [autos.surface(*sample, resolution=n, tolerance=0).error["mean"] for n in (32, 64, 128)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    enough = autos.surface(*sample, resolution=1024, tolerance=2e-3)
    assert enough.error["max"] <= 2e-3
    assert enough.table.shape[0] < 1024


def test_nodes_gather_where_data_and_curvature_are() -> None:
    autos, sample = bent(Features(), steep=2.0), parameters()
    axis = autos.surface(*sample, resolution=64).axes[0]
    gaps = axis.nodes(64).diff()
    assert axis.nodes(64)[[0, -1]].tolist() == pytest.approx([axis.low, axis.high])
    assert gaps.min() > 0
    assert axis.nodes(64)[gaps.argmin()].abs() < 0.5  # the kink
    assert gaps.max() > 1.5 * gaps.min()


def test_refining_leaves_dead_parameters_dead() -> None:
    autos, (theta, grad) = bent(Features()), parameters()
    surface = autos.surface(theta, grad, resolution=32)
    alive = Mask(everything(20_000).layout, theta > 0)
    mask = surface.keep_top(theta, grad, k=500, alive=alive, autos=autos)
    assert torch.equal(mask.kept, keep_top(autos.score(theta, grad), 500, alive).kept)


def test_what_lies_outside_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    autos, (theta, grad) = bent(Features()), parameters()
    surface = autos.surface(theta, grad, resolution=64)
    scale = Scale.of(theta, grad)
    with caplog.at_level(logging.WARNING):
        edge = surface.score(theta, grad, scale=scale)
    assert not caplog.records
    far = theta.clone()
    far[:600] *= 1e4
    with caplog.at_level(logging.WARNING):
        scores = surface.score(far, grad, scale=scale)
    assert "3.0" in caplog.text
    assert "% of the parameters lie outside what the surface was tabulated on" in caplog.text
    assert torch.equal(scores[600:], edge[600:])
    assert scores.max() <= surface.table.max()
    full = everything(20_000)
    expected = keep_top(autos.score(far, grad, scale=scale), 700, full)
    assert torch.equal(surface.keep_top(far, grad, k=700, alive=full, autos=autos, scale=scale).kept, expected.kept)


def test_saved_and_loaded_without_the_network(tmp_path: Path) -> None:
    autos, (theta, grad) = bent(Features(names=("grad",))), parameters()
    surface = autos.surface(theta, grad)
    surface.save(tmp_path)
    loaded = Surface.load(tmp_path)
    assert torch.equal(loaded.score(theta, grad), surface.score(theta, grad))
    assert (loaded.error, loaded.features) == (surface.error, surface.features)
    assert {path.name for path in tmp_path.iterdir()} == {"surface.json", "surface.safetensors"}
    card = tmp_path / "surface.json"
    card.write_text(card.read_text().replace('"grad"', '"theta",\n"grad"'))
    with pytest.raises(UserError, match=r"is damaged \(1 axes for 2 inputs\)"):
        Surface.load(tmp_path)
    (tmp_path / "surface.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="is damaged"):
        Surface.load(tmp_path)
    with pytest.raises(UserError, match="no saved surface in"):
        Surface.load(tmp_path / "none")


def test_inputs_that_cannot_be_scored_are_refused() -> None:
    autos, (theta, grad) = bent(Features()), parameters()
    surface = autos.surface(theta, grad, resolution=16)
    with pytest.raises(UserError, match="gradients are zero everywhere"):
        surface.score(theta, torch.zeros_like(grad))
    with pytest.raises(UserError, match="weights are not finite"):
        surface.score(theta / 0, grad)
    with pytest.raises(UserError, match=r"float32 vectors of one length; got .*\(20000,\) and .*\(19999,\)"):
        surface.score(theta, grad[1:])
    with pytest.raises(UserError, match="that of another network"):
        surface.keep_top(theta, grad, k=5, alive=everything(20_000), autos=bent(Features(), steep=2.0))
    with pytest.raises(UserError, match="that of another network"):
        AutoSCriterion(replace(autos, features=Features(names=("grad",))), surface)
    with pytest.raises(UserError, match="resolution of a surface must be at least 2, got 1"):
        autos.surface(theta, grad, resolution=1)
    with pytest.raises(UserError, match="tolerance of a surface must be 0 or more, got nan"):
        autos.surface(theta, grad, tolerance=float("nan"))
    with pytest.raises(UserError, match="at least 2 parameters, got 1"):
        autos.surface(theta[:1], grad[:1])
    with pytest.raises(UserError, match="not finite"):
        autos.surface(theta / 0, grad, scale=Scale((1.0, 1.0)))


def test_nan_reads_as_nan() -> None:
    theta, grad = parameters()
    surface = bent(Features()).surface(theta, grad, resolution=16)
    scale = Scale.of(theta, grad)
    theta[5], grad[7] = torch.nan, torch.inf
    scores = surface.score(theta, grad, scale=scale)
    assert scores.isnan().nonzero().tolist() == [[5]]


@pytest.mark.skipif(not lookup.has_compiler(), reason="no C++ compiler")
def test_compiled_or_not_the_scores_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    autos, (theta, grad) = bent(Features()), parameters(300_001)
    theta[0] *= 1e6
    surface = autos.surface(theta, grad, resolution=64)
    plain, outside = surface.read(theta, grad, scale=Scale.of(theta, grad))
    monkeypatch.setattr(lookup, "_WORTH_COMPILING", 1)
    scores, same = surface.read(theta, grad, scale=Scale.of(theta, grad))
    assert torch.equal(same, outside)
    torch.testing.assert_close(scores, plain, rtol=0, atol=1e-5)
    full = everything(300_001)
    expected = keep_top(autos.score(theta, grad), 3000, full)
    assert torch.equal(surface.keep_top(theta, grad, k=3000, alive=full, autos=autos).kept, expected.kept)
    monkeypatch.setenv("CXX", "no such compiler")
    assert lookup.make_lookup(theta.device, 1 << 30)[0] is lookup.lookup


@pytest.mark.usefixtures("small_mlp")
def test_a_fit_leaves_a_surface_and_prunes_as_its_network_does(
    script: Callable[..., int], irp_run: Path, model: nn.Module, data: Data, tmp_path: Path
) -> None:
    assert script("autos", "--runs", irp_run, "--epochs", 1, "--output", tmp_path) == 0
    (folder,) = (tmp_path / "autos").iterdir()
    autos, surface = AutoS.load(folder), Surface.load(folder)
    assert RUN in folder.name
    assert surface.error["samples"] > 500
    assert tabulate_held_out(autos, StoredSamples([TripleStore.open(irp_run)], FitConfig())).error == pytest.approx(
        surface.error, rel=1e-3
    )
    alone, both = tmp_path / "alone", folder
    alone.mkdir()
    for name in ("surface.json", "surface.safetensors"):
        shutil.copy(folder / name, alone)
    own = autosparse.prune(model, data.scoring(100), criterion=AutoSCriterion(autos), sparsity=0.95)
    assert torch.equal(autosparse.prune(model, data.scoring(100), criterion=both, sparsity=0.95).kept, own.kept)
    tabulated = autosparse.prune(model, data.scoring(100), criterion=alone, sparsity=0.95)
    assert (tabulated.kept & own.kept).sum() > 0.99 * own.count
    criterion = AutoSCriterion.load(alone)
    assert torch.equal(
        keep_top(criterion(model, everything_of(own), data.scoring(100)), own.count, everything_of(own)).kept,
        tabulated.kept,
    )


def everything_of(mask: Mask) -> Mask:
    return Mask.full(mask.layout)


def test_a_table_of_three_inputs() -> None:
    autos, (theta, grad) = bent(Features(names=("theta", "grad", "flow"))), parameters()
    flow = (theta * grad).abs()
    surface = autos.surface(theta, grad, flow, resolution=256, tolerance=0)
    assert surface.table.shape == (40, 40, 40)  # as many nodes as 256 x 256, nearly
    other = parameters(30_000)
    columns = (*other, (other[0] * other[1]).abs())
    expected, full = autos.score(*columns), everything(30_000)
    assert (surface.score(*columns) - expected).abs().mean() < 0.02
    for sparsity in SPARSITIES:
        k = round((1 - sparsity) * 30_000)
        mask = keep_top(expected, k, full)
        assert torch.equal(surface.keep_top(*columns, k=k, alive=full, autos=autos).kept, mask.kept)
