from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from autosparse import networks
from autosparse.data import ImageData, Images
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from autosparse.training import Checkpoint, Recipe, evaluate, summarize, train

RECIPE = Recipe(2, "nesterov", 0.05, batch_size=128, weight_decay=1e-2, drops=(1,))


class StoppedError(Exception):
    """The process ends here."""


def sparse(model: nn.Module, density: float = 0.2) -> Mask:
    layout = Layout.of(model)
    return Mask(layout, torch.rand(layout.size, generator=torch.Generator().manual_seed(0)) < density)


def fresh(kind: str, images: Images) -> nn.Module:
    if kind == "lenet":
        return networks.build("lenet-300-100", images.shape, images.classes, seed=0)
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(512, 10)
    )


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam"])
def test_removed_weights_are_exactly_zero_after_every_step(
    optimizer: str, model: nn.Module, data: ImageData, accelerator: Accelerator
) -> None:
    mask = sparse(model)
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


def test_training_learns_and_is_a_function_of_the_seed(images: Images, accelerator: Accelerator) -> None:
    data = ImageData(images)
    results = []
    for seed in (0, 0, 1):
        model = fresh("convolutional", images)
        torch.manual_seed(len(results))  # the global generator must not matter
        history = train(model, Mask.full(Layout.of(model)), data, RECIPE, accelerator, seed=seed)
        results.append((history, model.state_dict()))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(results[0][1][name], results[1][1][name]) for name in results[0][1])
    assert results[0][0] != results[2][0]
    assert results[0][0][-1]["test"] > 0.8
    assert results[0][0][-1]["validation"] is None


def test_the_global_generator_is_left_alone(model: nn.Module, data: ImageData, accelerator: Accelerator) -> None:
    torch.manual_seed(9)
    state = torch.get_rng_state()
    train(model, sparse(model), data, RECIPE, accelerator)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["lenet", "convolutional"])
@pytest.mark.parametrize("stop", [1, 7, 10, 11, 20])
def test_a_stopped_training_ends_with_the_same_bits(
    kind: str, stop: int, images: Images, data: ImageData, accelerator: Accelerator, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, optimizer="adam", learning_rate=1e-3, augment=True)
    whole = fresh(kind, images)
    expected = train(whole, sparse(whole), data, recipe, accelerator, seed=3)
    told = 0

    def die(steps: int) -> None:
        nonlocal told
        told += steps
        if told > stop:
            raise StoppedError

    path = tmp_path / "checkpoint.pt"
    model = fresh(kind, images)
    if stop < 20:
        with pytest.raises(StoppedError):
            train(
                model, sparse(model), data, recipe, accelerator, seed=3, resume=Checkpoint(path, "a", 0), progress=die
            )
    else:  # stopped after the last step
        train(model, sparse(model), data, recipe, accelerator, seed=3, resume=Checkpoint(path, "a", 0))
    model = fresh(kind, images)
    done: list[int] = []
    history = train(
        model, sparse(model), data, recipe, accelerator, seed=3, resume=Checkpoint(path, "a", 60), progress=done.append
    )
    assert done[0] == stop
    assert sum(done) == 20
    assert history == expected
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_state_of_another_training_is_not_loaded(
    model: nn.Module, data: ImageData, accelerator: Accelerator, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    train(model, sparse(model), data, RECIPE, accelerator, resume=Checkpoint(path, "iteration 1", 0))
    optimizer = RECIPE.make_optimizer(model)
    assert Checkpoint(path, "iteration 2").load(model, optimizer) is None
    assert Checkpoint(path, "iteration 1").load(model, optimizer)["epoch"] == 2
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        Checkpoint(path, "iteration 1").load(model, optimizer)


def test_a_loss_that_is_no_number_names_epoch_and_layer(
    model: nn.Module, data: ImageData, accelerator: Accelerator
) -> None:
    recipe = replace(RECIPE, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(UserError, match=r"the loss is (nan|inf) in epoch 1 \(first layer that is not finite: fc1"):
        train(model, Mask.full(Layout.of(model)), data, recipe, accelerator)


def test_bf16_and_compile_come_near_float32(images: Images, data: ImageData, accelerator: Accelerator) -> None:
    histories = {}
    for name, options in {"float32": {}, "bf16": {"precision": "bf16"}, "compile": {"compile": True}}.items():
        model = fresh("lenet", images)
        recipe = replace(RECIPE, learning_rate=0.02, **options)
        histories[name] = train(model, sparse(model), data, recipe, accelerator)
    assert histories["bf16"][-1]["loss"] == pytest.approx(histories["float32"][-1]["loss"], rel=0.05)
    assert histories["bf16"] != histories["float32"]
    assert histories["compile"][-1]["loss"] == pytest.approx(histories["float32"][-1]["loss"], rel=1e-3)


def test_evaluate_counts_the_images(
    model: nn.Module, data: ImageData, images: Images, accelerator: Accelerator
) -> None:
    x = data.normalize(torch.from_numpy(images.x_test))
    expected = (model(x).argmax(1).numpy() == images.y_test).mean()
    assert evaluate(model, data, "test", accelerator, RECIPE) == pytest.approx(expected)


def test_the_three_accuracies() -> None:
    tests, validations = (0.5, 0.9, 0.7), (0.6, 0.5, 0.61)
    history = [
        {"epoch": k, "loss": 1.0, "test": t, "validation": v}
        for k, (t, v) in enumerate(zip(tests, validations, strict=True))
    ]
    assert summarize(history) == {"accuracy": 0.7, "accuracy_best_validation": 0.7, "accuracy_best_test": 0.9}
