"""Two processes and four, two networks, and a kill in the middle."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autosparse.cluster import process
from autosparse.config import IRPConfig
from autosparse.irp import IRP
from autosparse.store import TripleStore
from autosparse.tasks import Data
from autosparse.training import Recipe
from tests.conftest import tree
from tests.models import GPT, digits
from tests.tasks.attention import Language
from tests.world import world


class KilledError(Exception):
    """The process ends here."""


def prune(folder: Path, network: str, stop: int = 0, blind: bool = False) -> str:
    """What one of some processes does; killed at a step if `stop` is one.

    Where all but the first are `blind`, they see no file yet, as may be on a network file system.
    """
    accelerator = process.start(1)
    rank, size = accelerator.process_index, accelerator.num_processes
    assert size == int(os.environ["WORLD_SIZE"])
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(256, 10)
    )
    data: Data = digits(rank=rank, world_size=size)
    if network == "gpt":
        model, data = GPT(), Data(Language(), rank=rank, world_size=size)
    calls = 0

    def die(steps: int) -> None:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KilledError

    if blind and rank:
        Path.exists = Path.is_file = lambda path: False

    IRP(
        model=model,
        data=data,
        recipe=Recipe(1, "nesterov", 0.05),
        config=IRPConfig(iterations=2, final_sparsity=0.95, probe_steps=5),
        folder=folder,
        accelerator=accelerator,
        checkpoint_interval=0,
        progress=die,
    ).run()
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    others = accelerator.gather(flat[None])
    assert all(torch.equal(others[0], other) for other in others)
    process.finish(accelerator)
    return "done"


@pytest.fixture(scope="module", params=["convolutional", "gpt"])
def network(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(network: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert world(2, prune, folder, network) == ["done", "done"]
    assert TripleStore.open(folder).problems() == []
    return folder


@pytest.mark.parametrize("stop", [7, 18])
def test_two_processes_killed_and_resumed_end_with_the_same_bytes(
    stop: int, network: str, whole: Path, tmp_path: Path
) -> None:
    assert all("KilledError" in said for said in world(2, prune, tmp_path, network, stop))
    assert world(2, prune, tmp_path, network) == ["done", "done"]
    assert tree(tmp_path) == tree(whole)


def test_a_process_that_sees_no_file_yet_leaves_a_complete_run_alone(network: str, whole: Path) -> None:
    before = tree(whole)
    assert world(2, prune, whole, network, 0, True) == ["done", "done"]
    assert tree(whole) == before


@pytest.mark.parametrize("network", ["gpt"], indirect=True)
def test_four_processes_are_one_world(network: str, whole: Path, tmp_path: Path) -> None:
    assert world(4, prune, tmp_path, network) == ["done"] * 4
    two, four = TripleStore.open(whole), TripleStore.open(tmp_path)
    assert four.problems() == []
    np.testing.assert_array_equal(four.theta(), two.theta())
    np.testing.assert_allclose(four.grad(), two.grad(), rtol=1e-3, atol=1e-5)
