from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch._dynamo.utils import counters

from autosparse import networks
from autosparse.criteria import Scoring
from autosparse.criteria.gradient import mean_gradient
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from autosparse.tasks import Data
from autosparse.tasks.arrays import ImageArrays
from autosparse.training import Checkpoint, Recipe, evaluate, summarize, train
from autosparse.training.step import kept_bits, make_optimizer, zero_removed
from tests.models import digits, random_mask

RECIPE = Recipe(2, "nesterov", 0.05, batch_size=128, weight_decay=1e-2, drops=(1,))


class StoppedError(Exception):
    """The process ends here."""


def stop_after(stop: int) -> Callable[[int], None]:
    """Return a progress that ends the training in the step after a number of them."""
    done = 0

    def progress(steps: int) -> None:
        nonlocal done
        done += steps
        if done > stop:
            raise StoppedError

    return progress


def fresh(kind: str, images: ImageArrays) -> nn.Module:
    if kind == "lenet":
        return networks.build("lenet-300-100", images.shape, images.classes, seed=0)
    torch.manual_seed(0)
    stem = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    if kind == "deep":
        stem += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*stem, nn.Flatten(), nn.Dropout(), nn.Linear(512, 10))


@pytest.mark.parametrize("optimizer", ["nesterov", "adam"])
def test_removed_weights_are_exactly_zero_after_every_step(
    optimizer: str, model: nn.Module, data: Data, accelerator: Accelerator
) -> None:
    mask = random_mask(model, 0.2)
    recipe = replace(RECIPE, optimizer=optimizer, learning_rate=0.01)
    seen = []

    def look(steps: int) -> None:
        flat = mask.layout.flatten(mask.layout.weights(model))
        seen.append(bool(flat[~mask.kept].any()))

    start = mask.layout.flatten(mask.layout.weights(model)).clone()
    train(model, mask, data, recipe, accelerator, progress=look)
    assert len(seen) == 1 + 2 * 10
    assert not any(seen)
    assert (mask.layout.flatten(mask.layout.weights(model)) != start)[mask.kept].float().mean() > 0.9


def test_training_learns_and_is_a_function_of_the_seed(images: ImageArrays, accelerator: Accelerator) -> None:
    data = digits(validation=0.0)
    results = []
    for seed in (0, 0, 1):
        model = fresh("convolutional", images)
        torch.manual_seed(len(results))  # the global generator does not matter, and stays as it is
        state = torch.get_rng_state()
        history = train(model, Mask.full(Layout.of(model)), data, RECIPE, accelerator, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        results.append((history, model.state_dict()))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(results[0][1][name], results[1][1][name]) for name in results[0][1])
    assert results[0][0] != results[2][0]
    assert results[0][0][-1]["test"] > 0.8
    assert results[0][0][-1]["validation"] is None


@pytest.mark.parametrize(("kind", "stop"), [("convolutional", 10), ("deep", 11), ("deep", 20)])
def test_a_stopped_training_ends_with_the_same_bits(
    kind: str, stop: int, images: ImageArrays, data: Data, accelerator: Accelerator, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, optimizer="adam", learning_rate=1e-3, augment=True, channels_last=kind == "deep")
    whole = fresh(kind, images)
    expected = train(whole, random_mask(whole, 0.2), data, recipe, accelerator, seed=3)
    path = tmp_path / "checkpoint.pt"
    model = fresh(kind, images)
    options: Any = {"seed": 3, "resume": Checkpoint(path, "a", 0), "progress": stop_after(stop)}
    with pytest.raises(StoppedError) if stop < 20 else nullcontext():  # 20 is the last step
        train(model, random_mask(model, 0.2), data, recipe, accelerator, **options)
    model = fresh(kind, images)
    done: list[int] = []
    options = {"seed": 3, "resume": Checkpoint(path, "a", 60), "progress": done.append}
    history = train(model, random_mask(model, 0.2), data, recipe, accelerator, **options)
    assert done[0] == stop
    assert sum(done) == 20
    assert history == expected
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_state_of_another_training_is_not_loaded(
    model: nn.Module, data: Data, accelerator: Accelerator, tmp_path: Path
) -> None:
    path, optimizer = tmp_path / "checkpoint.pt", make_optimizer(RECIPE, model)
    train(model, random_mask(model, 0.2), data, RECIPE, accelerator, resume=Checkpoint(path, "iteration 1", 0))
    assert Checkpoint(path, "iteration 2").load(model, optimizer) is None
    assert Checkpoint(path, "iteration 1").load(model, optimizer)["epoch"] == 2
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        Checkpoint(path, "iteration 1").load(model, optimizer)


class Trap:
    """Runs code where it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.sign,)


def test_pickle_instead_of_a_checkpoint_runs_no_code(model: nn.Module, tmp_path: Path) -> None:
    torch.save({"tag": "train", "model": Trap(tmp_path / "sign")}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r"checkpoint .*checkpoint.pt cannot be read; delete it"):
        Checkpoint(tmp_path / "checkpoint.pt", "train").load(model, torch.optim.SGD(model.parameters()))
    assert not (tmp_path / "sign").exists()
    with suppress(Exception):  # it would have
        torch.load(tmp_path / "checkpoint.pt", weights_only=False)
    assert (tmp_path / "sign").exists()


def test_a_loss_that_is_no_number_names_epoch_and_layer(model: nn.Module, data: Data, accelerator: Accelerator) -> None:
    recipe = replace(RECIPE, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(UserError, match=r"the loss is (nan|inf) in epoch 1 \(first layer that is not finite: fc1"):
        train(model, Mask.full(Layout.of(model)), data, recipe, accelerator)


def test_bf16_comes_near_float32(images: ImageArrays, data: Data, accelerator: Accelerator) -> None:
    histories = []
    for precision in ("float32", "bf16"):
        model = fresh("lenet", images)
        recipe = replace(RECIPE, learning_rate=0.02, precision=precision)
        histories.append(train(model, random_mask(model, 0.2), data, recipe, accelerator))
    assert histories[1][-1]["loss"] == pytest.approx(histories[0][-1]["loss"], rel=0.05)
    assert histories[1] != histories[0]


def test_channels_last_changes_the_memory_and_nothing_else(
    images: ImageArrays, data: Data, accelerator: Accelerator
) -> None:
    recipe = replace(RECIPE, optimizer="adam", learning_rate=1e-3)
    plain, model = fresh("deep", images), fresh("deep", images)
    mask = random_mask(model, 0.2)
    flat, during = mask.layout.flatten(mask.layout.weights(model)), []

    def look(steps: int) -> None:
        weights = mask.layout.weights(model)
        during.append(model[3].weight.is_contiguous(memory_format=torch.channels_last))
        found = mask.layout.flatten(weights)
        assert not found[~mask.kept].any()
        if not steps:  # before the first one
            assert torch.equal(found, flat.where(mask.kept, 0.0))

    expected = train(plain, mask, data, recipe, accelerator)
    history = train(model, mask, data, replace(recipe, channels_last=True), accelerator, progress=look)
    assert during == [True] * 21
    assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
    assert [epoch["loss"] for epoch in history] == pytest.approx([epoch["loss"] for epoch in expected], rel=1e-3)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-2, atol=1e-3)


def test_a_network_is_compiled_once_for_all_its_trainings(
    images: ImageArrays, data: Data, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # needs no C++ compiler
    recipe = replace(RECIPE, learning_rate=0.02, channels_last=True)
    plain, model = fresh("deep", images), fresh("deep", images)
    plain[-2], model[-2] = nn.Identity(), nn.Identity()  # dropout draws other numbers where it is compiled
    mask, compiled = random_mask(model, 0.2), replace(recipe, compile=True)
    expected = train(plain, mask, data, recipe, accelerator)
    history = train(model, mask, data, compiled, accelerator)
    assert history[-1]["loss"] == pytest.approx(expected[-1]["loss"], rel=1e-3)
    before = counters["stats"]["unique_graphs"]
    assert before
    with torch.compiler.set_stance("fail_on_recompile"):  # evaluation, its last batch and the other mask: none of them
        mean_gradient(model, mask.layout, Scoring(data.scoring(256, 1)))
        train(model, random_mask(model, 0.1), data, compiled, accelerator)
    assert counters["stats"]["unique_graphs"] == before


def test_evaluate_counts_the_images(
    model: nn.Module, data: Data, images: ImageArrays, accelerator: Accelerator
) -> None:
    x = torch.cat([x for x, _ in data.evaluation("test")])
    expected = (model(x).argmax(1).numpy() == images.y_test).mean()
    assert evaluate(model, data, "test", accelerator, RECIPE) == {"accuracy": pytest.approx(expected)}


def test_summary_has_the_last_epoch_and_the_one_chosen_by_the_first_metric() -> None:
    tests, validations = (0.5, 0.9, 0.7), (0.6, 0.5, 0.61)
    history = [
        {"epoch": k, "loss": 1.0, "metric": "accuracy", "test": t, "validation": v, "more": {"iou": k / 10}}
        for k, (t, v) in enumerate(zip(tests, validations, strict=True))
    ]
    last = {"metric": "accuracy", "better": "higher", "test": 0.7, "test/iou": 0.2}
    chosen = {"test_best_validation": 0.7, "test_best_validation/iou": 0.2}
    assert summarize(history) == {**last, **chosen, "test_best": 0.9}
    last["better"] = "lower"
    chosen = {"test_best_validation": 0.9, "test_best_validation/iou": 0.1}
    assert summarize(history, "lower") == {**last, **chosen, "test_best": 0.5}
    for epoch in history:
        epoch["validation"] = None
    assert summarize(history, "lower") == {**last, "test_best_validation": None, "test_best": 0.5}


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_removed_weights_become_zero_and_kept_ones_keep_their_bits(kind: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 6)).to(kind).to(memory_format=torch.channels_last)
    mask = random_mask(model, 0.5)
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1.5, -2.0], dtype=kind)
    with torch.no_grad():
        for weight in mask.layout.weights(model).values():
            weight.copy_(odd[torch.arange(weight.numel()) % len(odd)].view(weight.shape))
    before = {name: weight.detach().clone() for name, weight in mask.layout.weights(model).items()}
    zero_removed(kept_bits(model, mask))
    for name, kept in mask.layout.unflatten(mask.kept).items():
        weight = model.get_parameter(name).detach()
        expected = before[name].masked_fill(~kept, 0.0)
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
        assert torch.equal(weight.view(bits), expected.view(bits))
