"""AutoS in a size that tests can afford."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from autosparse.autos import BACKBONES
from autosparse.store import TripleStore


def small(width: int) -> nn.Module:
    """Return a small network with the kinds of layers of the mlp, and dropout."""
    return nn.Sequential(
        nn.Linear(width, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1), nn.Flatten(0)
    )


@pytest.fixture(scope="module")
def small_mlp() -> Iterator[None]:
    """The mlp is a small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "mlp", small)
        yield


@pytest.fixture(scope="module")
def store(irp_run: Path) -> TripleStore:
    return TripleStore.open(irp_run)
