import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from autosparse.cluster import process
from autosparse.criteria import Scoring, select
from autosparse.criteria.data_free import RandomERK, erk_counts
from autosparse.pruning import Layout, Mask
from autosparse.tasks import Data
from autosparse.tasks.arrays import ImageArrays, load
from autosparse.training import Checkpoint, Recipe, train
from autosparse.training.dynamic import GradualMagnitude, MaskUpdateCallback, RigL
from tests.models import digits
from tests.training.test_loop import StoppedError, fresh, stop_after
from tests.world import world

RECIPE = Recipe(2, "nesterov", 0.05, batch_size=128)  # 22 steps


def rival(name: str, model: nn.Module) -> MaskUpdateCallback:
    k = Layout.of(model).size // 10
    return GradualMagnitude(k, 20, every=3) if name == "gmp" else RigL(20, every=3)


def first(name: str, model: nn.Module) -> Mask:
    full = Mask.full(Layout.of(model))
    k = full.layout.size // 10
    return full if name == "gmp" else select(RandomERK(0), model, full, Scoring(), k)


def test_the_schedule_is_the_papers_at_its_ends_and_between() -> None:
    gradual = GradualMagnitude(100, 1000)
    assert (gradual.begin, gradual.end) == (100, 700)
    gradual.start_count = 1100
    assert [gradual.kept_at(step) for step in (100, 400, 700)] == [1100, 225, 100]
    assert RigL(1000).fraction(0) == pytest.approx(0.3)
    assert RigL(1000).fraction(375) == pytest.approx(0.15)
    assert RigL(1000).fraction(750) == 0.0
    assert [(RigL(steps).every, GradualMagnitude(1, steps).every) for steps in (1000, 100, 12, 1)] == [
        (50, 20),
        (7, 6),
        (1, 1),
        (1, 1),
    ]


def test_an_update_of_rigl_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 2, bias=False))
    weight = model[0].weight
    with torch.no_grad():
        weight.copy_(torch.tensor([[0.1, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]]))
    optimizer = torch.optim.Adam(model.parameters())
    weight.grad = torch.tensor([[1.0, 9.0, 9.0, 9.0], [2.0, 5.0, 3.0, 4.0]])
    remembered = {name: torch.ones(2, 4) for name in ("exp_avg", "exp_avg_sq")}
    optimizer.state[weight] = {"step": torch.tensor(1.0), **remembered}
    rigl = RigL(10**9, every=1)  # the share is still 0.3: of four weights, one
    rigl.load_state_dict({"kept": torch.tensor([True] * 4 + [False] * 4)})
    mask = rigl.start(model, Mask.full(Layout.of(model)))
    rigl.gradients(1, model)
    found = rigl.stepped(1, model, mask, optimizer)
    assert found.kept.tolist() == [False, True, True, True, False, True, False, False]
    for name, grown in (("exp_avg", 0.1 * 5.0), ("exp_avg_sq", 0.001 * 25.0)):  # One step, whose gradient was 5.
        assert remembered[name].flatten().tolist() == pytest.approx([1.0] * 5 + [grown] + [1.0] * 2)


@pytest.mark.parametrize("name", ["gmp", "rigl"])
def test_counts_are_exact(name: str, model: nn.Module, data: Data, accelerator: Accelerator) -> None:
    callback, full, seen = rival(name, model), Mask.full(Layout.of(model)), set()

    def look(steps: int) -> None:
        mask = callback.mask
        seen.add(bytes(mask.kept.numpy()))
        assert not full.layout.flatten(full.layout.weights(model))[~mask.kept].any()
        if name == "rigl":
            counts = [int(kept.sum()) for kept in full.layout.unflatten(mask.kept).values()]
            sizes = [layer.size for layer in full.layout.layers]
            assert counts == erk_counts(full.layout, full.layout.size // 10, sizes)

    train(model, first(name, model), data, RECIPE, accelerator, callback=callback, progress=look)
    assert callback.mask.count == full.layout.size // 10
    assert len(seen) > 4


@pytest.mark.parametrize(("name", "stop"), [("gmp", 6), ("rigl", 19)])
def test_a_stopped_training_ends_with_the_same_bits(
    name: str, stop: int, images: ImageArrays, data: Data, accelerator: Accelerator, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, optimizer="adam", learning_rate=1e-3)
    found = []
    for resume, end in ((None, 99), (Checkpoint(tmp_path / "a", "a", 0), stop), (Checkpoint(tmp_path / "a", "a"), 99)):
        model = fresh("convolutional", images)
        callback, mask = rival(name, model), first(name, model)
        options: Any = {"resume": resume, "callback": callback, "progress": stop_after(end)}
        try:
            train(model, mask, data, recipe, accelerator, **options)
        except StoppedError:
            continue
        found.append({**model.state_dict(), "kept": callback.mask.kept})
    assert len(found) == 2
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


def follow() -> str:
    """Train as one of two processes with a mask that changes."""
    accelerator = process.start(1)
    data = digits(validation=0.0, rank=accelerator.process_index, world_size=2)
    model = fresh("convolutional", load("digits"))
    callback = rival("rigl", model)
    train(model, first("rigl", model), data, RECIPE, accelerator, callback=callback)
    kept, weights = callback.mask.kept, Layout.of(model).flatten(Layout.of(model).weights(model))
    assert int(kept.sum()) == len(kept) // 10
    assert not weights[~kept].any()
    process.finish(accelerator)
    return hashlib.sha256(kept.numpy().tobytes() + weights.numpy().tobytes()).hexdigest()


def test_two_processes_choose_alike() -> None:
    one, other = world(2, follow)
    assert len(one) == 64, one
    assert one == other


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, partial(torch.optim.SGD, momentum=0.9)])
def test_first_update_of_a_grown_weight_is_that_of_a_fresh_one(optimizer: Any) -> None:
    model = nn.Linear(40, 10, bias=False)
    slopes = torch.rand(10, 40) + 0.5  # The loss is linear: its gradient is the same in all steps.
    optimizer = optimizer(model.parameters(), lr=0.01, weight_decay=0.0)
    layout = Layout.of(model)
    mask, rigl = Mask(layout, torch.arange(layout.size) % 4 == 0), RigL(2000, every=100)
    mask = rigl.start(model, mask)
    for step in range(1, 102):
        mask.apply_(model)
        before = model.weight.detach().clone()
        (model.weight * slopes).sum().backward()
        rigl.gradients(step, model)
        optimizer.step()
        previous, mask = mask, rigl.stepped(step, model, mask, optimizer)
        optimizer.zero_grad()
        if step == 100:
            grown = (mask.kept & ~previous.kept).view(10, 40)
    assert grown.sum() > 10
    update = before[grown] - model.weight.detach()[grown]
    fresh = 0.01 * slopes[grown] if isinstance(optimizer, torch.optim.SGD) else torch.full_like(update, 0.01)
    assert torch.allclose(update, fresh, rtol=1e-3)
