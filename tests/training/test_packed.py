"""A pack trains each of its models as it is trained alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from autosparse import networks
from autosparse.cluster import interruption
from autosparse.cluster.interruption import InterruptedAtStep
from autosparse.errors import UserError
from autosparse.lookahead import Probe
from autosparse.pruning import Layout, Mask
from autosparse.tasks import Data
from autosparse.training import Callback, Checkpoint, Recipe, Training, train, train_together

RECIPE = Recipe(2, "adam", 1.2e-3, batch_size=128)
SEEDS = range(3)


def lenet(seed: int) -> nn.Module:
    return networks.build("lenet-300-100", (1, 8, 8), 10, seed=seed)


def normed(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
    )


def training(model: nn.Module, seed: int, **more: object) -> Training:
    layout = Layout.of(model)
    kept = torch.rand(layout.size, generator=torch.Generator().manual_seed(seed)) < 0.3
    return Training(model=model, mask=Mask(layout, kept), seed=seed, **more)  # type: ignore[arg-type]


def alone(each: Training, data: Data, recipe: Recipe, accelerator: Accelerator) -> list[object]:
    return list(train(data=data, recipe=recipe, accelerator=accelerator, **vars(each)))


def assert_same(found: nn.Module, expected: nn.Module, tolerance: float = 2e-5) -> None:
    for (name, own), other in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize(
    ("make", "recipe", "tolerance"),
    [
        (lenet, RECIPE, 2e-5),
        (lenet, replace(RECIPE, optimizer="nesterov", learning_rate=0.05, drops=(1,), augment=True), 2e-5),
        (lenet, replace(RECIPE, optimizer="adamw", clip=0.5, warmup=0.5, cosine=True, accumulate=2), 2e-5),
        (normed, replace(RECIPE, epochs=1, optimizer="nesterov", learning_rate=0.05), 5e-3),
    ],
)
def test_a_pack_trains_each_as_it_is_trained_alone(
    make: object, recipe: Recipe, tolerance: float, data: Data, accelerator: Accelerator
) -> None:
    single, packed = ([training(make(seed), seed) for seed in SEEDS] for _ in range(2))  # type: ignore[operator]
    ends = train_together(packed, data, recipe, accelerator)
    for own, other, end in zip(packed, single, ends, strict=True):
        expected = alone(other, data, recipe, accelerator)
        assert_same(own.model, other.model, tolerance)
        removed = ~own.mask.kept
        assert not own.mask.layout.flatten(own.mask.layout.weights(own.model))[removed].any()
        assert isinstance(end, list)
        for found, row in zip(end, expected, strict=True):
            assert found["loss"] == pytest.approx(row["loss"], abs=1e-3)  # type: ignore[index]
            assert found["test"] == pytest.approx(row["test"], abs=0.02)  # type: ignore[index]


def test_a_probe_sees_in_a_pack_what_it_sees_alone(data: Data, accelerator: Accelerator) -> None:
    columns = ("probe-gradient", "probe-theta", "probe-rms")
    models = [lenet(seed) for seed in SEEDS]
    probes = [[Probe(Layout.of(models[0]), 4, columns) for _ in SEEDS] for _ in range(2)]
    recipe = replace(RECIPE, epochs=1)
    train_together([training(lenet(k), k, callback=probes[0][k]) for k in SEEDS], data, recipe, accelerator)
    for k, own in enumerate(probes[0]):
        alone(training(lenet(k), k, callback=probes[1][k]), data, recipe, accelerator)
        for name, values in own.columns.items():
            assert values.any()
            torch.testing.assert_close(values, probes[1][k].columns[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stops", [(3, 3, 3), (13, 3, 0), (10, 20, 7)])
def test_whatever_each_has_done_alone_a_pack_goes_on_from(
    stops: tuple[int, ...], data: Data, accelerator: Accelerator, tmp_path: Path
) -> None:
    for seed, stop in enumerate(stops):
        resume = Checkpoint(tmp_path / str(seed), "a", 0.0)
        if stop:  # as a run alone that is asked to stop
            done: list[int] = []

            def look(steps: int, done: list[int] = done, stop: int = stop) -> None:
                done.append(steps)
                if sum(done) == stop:
                    interruption.interrupt("enough")

            with interruption.listening(), pytest.raises(InterruptedAtStep):
                alone(training(lenet(seed), seed, resume=resume, progress=look), data, RECIPE, accelerator)
    with interruption.listening():
        packed = [training(lenet(k), k, resume=Checkpoint(tmp_path / str(k), "a")) for k in SEEDS]
        train_together(packed, data, RECIPE, accelerator)
    for k, own in enumerate(packed):
        alone(other := training(lenet(k), k), data, RECIPE, accelerator)
        assert_same(own.model, other.model)


def test_a_pack_that_stops_leaves_what_each_goes_on_from_alone(
    data: Data, accelerator: Accelerator, tmp_path: Path
) -> None:
    told: list[int] = []

    def look(steps: int) -> None:
        told.append(steps)
        if sum(told) == 13:
            interruption.interrupt("enough")

    packed = [training(lenet(k), k, resume=Checkpoint(tmp_path / str(k), "a")) for k in SEEDS]
    packed[1] = training(lenet(1), 1, resume=Checkpoint(tmp_path / "1", "a"), progress=look)
    with interruption.listening(), pytest.raises(InterruptedAtStep):
        train_together(packed, data, RECIPE, accelerator)
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < 16 * packed[0].mask.layout.size  # its own alone
    with interruption.listening():
        for k in SEEDS:
            own = training(lenet(k), k, resume=Checkpoint(tmp_path / str(k), "a"))
            alone(own, data, RECIPE, accelerator)
            alone(other := training(lenet(k), k), data, RECIPE, accelerator)
            assert_same(own.model, other.model)


def test_one_whose_loss_is_no_number_leaves_the_others_alone(data: Data, accelerator: Accelerator) -> None:
    packed = [training(lenet(k), k) for k in SEEDS]
    with torch.no_grad():
        packed[1].model.get_parameter("fc2.bias")[3] = torch.nan
    ends = train_together(packed, data, RECIPE, accelerator)
    assert isinstance(ends[1], UserError)
    assert "the loss is nan in epoch 1 (first layer that is not finite: fc1.weight)" in str(ends[1])
    for k in (0, 2):
        alone(other := training(lenet(k), k), data, RECIPE, accelerator)
        assert_same(packed[k].model, other.model)


def test_what_cannot_be_packed_is_refused_in_one_line(
    convolutional: nn.Module, data: Data, accelerator: Accelerator
) -> None:
    dropping = [training(convolutional, k) for k in range(2)]
    with pytest.raises(UserError, match=r"cannot be packed; run it without --pack: .*random"):
        train_together(dropping, data, RECIPE, accelerator)
    two = [training(lenet(k), k) for k in range(2)]
    with pytest.raises(UserError, match="--channels-last does not go with a pack; run it without --pack"):
        train_together(two, data, replace(RECIPE, channels_last=True), accelerator)

    class Forgetful(Callback):
        def stepped(self, step: int, model: nn.Module, mask: Mask, optimizer: torch.optim.Optimizer) -> Mask:
            return Mask.full(mask.layout)

    with pytest.raises(ValueError, match="a callback that changes the mask"):
        train_together([training(lenet(0), 0), training(lenet(1), 1, callback=Forgetful())], data, RECIPE, accelerator)
