"""Masks as the report shows them: counts, pictures, and the weights that two masks both keep."""

import base64
from pathlib import Path

import numpy as np
import pytest
import torch

from autosparse.jobs.prune import MASK
from autosparse.networks.lenet import lenet_300_100
from autosparse.pruning import Layout, Mask
from autosparse.store import TripleStore
from autosparse.study import masks
from tests.conftest import Capture, Patch


def save(tmp_path: Path, *densities: float) -> tuple[dict[str, Path], list[Mask]]:
    """Save one random mask of a small network per density, as runs have it."""
    layout = Layout.of(lenet_300_100((1, 8, 8), 10))
    generator = torch.Generator().manual_seed(0)
    made = [Mask(layout, torch.rand(layout.size, generator=generator) < density) for density in densities]
    folders = {f"run {k}": tmp_path / str(k) for k in range(len(made))}
    for folder, mask in zip(folders.values(), made, strict=True):
        mask.save(folder / MASK)
    return folders, made


def test_counts_and_common_weights_are_exact(tmp_path: Path) -> None:
    folders, made = save(tmp_path, 0.5, 0.2, 0.1)
    described, (network,) = masks.describe_masks(folders)
    assert [layer["name"] for layer in network["layers"]] == [layer.name for layer in made[0].layout.layers]
    for mask, one in zip(made, described.values(), strict=True):
        assert [layer["kept"] for layer in one["layers"]] == [
            int(mask[layer.name].count_nonzero()) for layer in mask.layout.layers
        ]
    both = [[int((a.kept & b.kept).sum()) for b in made[:k]] for k, a in enumerate(made)]
    assert network["shared"] == both
    assert not network["sampled"]


def test_picture_has_the_density_of_rows_and_columns(tmp_path: Path) -> None:
    kept = torch.zeros(6, 64, dtype=torch.bool)
    kept[:3, :32] = True
    picture = masks._picture(kept, 4)
    cells = np.frombuffer(base64.b64decode(picture["cells"]), np.uint8).reshape(picture["rows"], picture["columns"])
    assert cells.shape == (4, 4)
    assert picture["highest"] == 1
    assert cells[0].tolist() == [255, 255, 0, 0]
    assert cells[3].tolist() == [0, 0, 0, 0]
    assert masks._picture(torch.zeros(3, 3, dtype=torch.bool), 4)["highest"] == 0


def test_large_masks_are_compared_at_random_positions(tmp_path: Path, monkeypatch: Patch) -> None:
    folders, (a, b) = save(tmp_path, 0.5, 0.5)
    monkeypatch.setattr(masks, "_SAMPLE", a.layout.size // 2)
    _, (network,) = masks.describe_masks(folders)
    assert network["sampled"]
    ((), (shared,)) = network["shared"]
    assert shared == pytest.approx(int((a.kept & b.kept).sum()), rel=0.2)


def test_pictures_of_many_masks_are_small(tmp_path: Path, monkeypatch: Patch) -> None:
    folders, _ = save(tmp_path, 0.5, 0.5)
    monkeypatch.setattr(masks, "_BYTES", 4 * 100)
    described, _ = masks.describe_masks(folders)
    assert all(layer["rows"] * layer["columns"] <= 100 for one in described.values() for layer in one["layers"])


def test_run_of_iterative_pruning_has_its_last_mask(irp_run: Path) -> None:
    store = TripleStore.open(irp_run)
    described, (network,) = masks.describe_masks({"irp": irp_run})
    assert sum(layer["kept"] for layer in described["irp"]["layers"]) == store.mask(store.iterations).count
    assert network["shared"] == [[]]


def test_run_without_mask_is_named_and_left_out(tmp_path: Path, capsys: Capture) -> None:
    assert masks.describe_masks({"a": tmp_path}) == ({}, [])
    assert "no picture of a mask" in capsys.readouterr().err
