"""Two processes and four, two networks, and a kill in the middle."""

import os
from dataclasses import replace
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
    """Run IRP as one of several processes, which is killed at a step if `stop` is one.

    If `blind`, all processes but the first see no file yet, as may be on a network file system.
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
    config = IRPConfig(iterations=2, final_sparsity=0.95, probe_steps=5)
    if network == "authors":
        config = replace(config, probe_steps=0, batch_norm="running", prune_first=True, rewind="weights")
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
        config=config,
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


@pytest.mark.parametrize(("network", "stop"), [("authors", 18), ("gpt", 18)])
def test_two_processes_killed_and_resumed_end_with_the_same_bytes(network: str, stop: int, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert world(2, prune, whole, network) == ["done", "done"]
    assert TripleStore.open(whole).problems() == []
    before = tree(whole)
    assert all("KilledError" in said for said in world(2, prune, killed, network, stop))
    assert world(2, prune, killed, network) == ["done", "done"]
    assert tree(killed) == before
    if network == "gpt":
        assert world(2, prune, whole, network, 0, True) == ["done", "done"]
        assert tree(whole) == before
        assert world(4, prune, tmp_path / "four", network) == ["done"] * 4
        two, four = TripleStore.open(whole), TripleStore.open(tmp_path / "four")
        np.testing.assert_array_equal(four.theta(), two.theta())
        np.testing.assert_allclose(four.grad(), two.grad(), rtol=1e-3, atol=1e-5)
