"""Runs of IRP in lockstep leave what runs alone leave, and go on from one another."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from autosparse import networks
from autosparse.config import IRPConfig
from autosparse.data import Images
from autosparse.errors import UserError
from autosparse.irp import IRP
from autosparse.pack import Pack
from autosparse.pruning import Mask
from autosparse.store import TripleStore
from autosparse.store.verify import problems
from autosparse.training import Recipe
from tests.conftest import tree
from tests.models import digits

SEEDS = (1, 2, 3)
N = 2

Make = Callable[..., IRP]


class KilledError(Exception):
    """The process ends here."""


@pytest.fixture(scope="module")
def irp(images: Images, accelerator: Accelerator) -> Make:
    data = digits()

    def make(folder: Path, seed: int, **more: object) -> IRP:
        return IRP(
            model=networks.build("lenet-300-100", images.shape, images.classes, seed=seed),
            data=data,
            recipe=Recipe(1, "adam", 1.2e-3, batch_size=128),
            config=IRPConfig(iterations=N, final_sparsity=0.9, seed=seed, probe_steps=4),
            folder=folder / str(seed),
            accelerator=accelerator,
            **more,  # type: ignore[arg-type]
        )

    return make


@pytest.fixture(scope="module")
def single(irp: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the runs leave one after the other."""
    folder = tmp_path_factory.mktemp("single")
    for seed in SEEDS:
        irp(folder, seed).run()
    return folder


def assert_same(folder: Path, single: Path, seed: int) -> None:
    """A run is that of the same seed alone, but for rounding."""
    own, other = (TripleStore.open(each / str(seed)) for each in (folder, single))
    assert problems(own) == []
    assert own.run == other.run
    assert np.array_equal(own.theta(), other.theta())
    assert np.array_equal(own.grad(), other.grad())
    np.testing.assert_allclose(own.probe("probe-gradient", 0), other.probe("probe-gradient", 0), atol=1e-5)
    assert (own.survival() == other.survival()).mean() > 0.98
    histories = [json.loads((each / str(seed) / "history.json").read_text()) for each in (folder, single)]
    for row, expected in zip(*histories, strict=True):
        assert row.keys() == expected.keys()
        assert row["density"] == expected["density"]
        assert row["loss"] == pytest.approx(expected["loss"], abs=0.02)
        assert row["test"] == pytest.approx(expected["test"], abs=0.03)
    files = [sorted(path.name for path in (each / str(seed)).iterdir()) for each in (folder, single)]
    assert files[0] == files[1]


def test_a_pack_leaves_what_runs_alone_leave(irp: Make, single: Path, tmp_path: Path) -> None:
    assert Pack([irp(tmp_path, seed) for seed in SEEDS]).run() == {}
    for seed in SEEDS:
        assert_same(tmp_path, single, seed)
    before = tree(tmp_path)
    told = pytest.fail
    assert Pack([irp(tmp_path, seed, progress=lambda steps: told("it trains again")) for seed in SEEDS]).run() == {}
    assert tree(tmp_path) == before


@pytest.mark.parametrize("interval", [0.0, 60.0])
def test_a_killed_pack_is_finished_alone_and_runs_alone_in_a_pack(
    interval: float, irp: Make, single: Path, tmp_path: Path
) -> None:
    told: list[int] = []

    def die(steps: int) -> None:
        told.append(steps)
        if len(told) == 14:
            raise KilledError

    def runs(**more: object) -> list[IRP]:
        return [irp(tmp_path, seed, checkpoint_interval=interval, **(more if seed == 2 else {})) for seed in SEEDS]

    with pytest.raises(KilledError):
        Pack(runs(progress=die)).run()
    told.clear()
    irp(tmp_path, 1).run()  # one is finished alone, one goes on a little, and the third waits
    with pytest.raises(KilledError):
        irp(tmp_path, 2, progress=die, checkpoint_interval=interval).run()
    assert Pack(runs()).run() == {}
    for seed in SEEDS:
        assert_same(tmp_path, single, seed)


def test_a_run_that_fails_leaves_the_pack(irp: Make, single: Path, tmp_path: Path) -> None:
    def failing(model: nn.Module, mask: Mask, batches: object) -> Tensor:
        return torch.full((mask.layout.size,), torch.nan)

    runs = [irp(tmp_path, seed, **({"criterion": failing} if seed == 2 else {})) for seed in SEEDS]
    failed = Pack(runs).run()
    assert [*failed] == [tmp_path / "2"]
    assert isinstance(error := failed[tmp_path / "2"], UserError)
    assert str(error).startswith("iteration 0: 50200 scores are NaN, the first in layer fc1.weight")
    assert_same(tmp_path, single, 1)
    assert_same(tmp_path, single, 3)
