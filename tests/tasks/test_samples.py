"""Batches of a task's own data sets: whose turn a sample is, and what it draws, depends on nothing else."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from autosparse.criteria import Scoring
from autosparse.criteria.gradient import mean_gradient
from autosparse.errors import UserError
from autosparse.generators import generator_states, seeded
from autosparse.generators import start_generators as start
from autosparse.pruning import Layout, Mask
from autosparse.seeds import stream
from autosparse.tasks import Data, Images, Text
from autosparse.training import Recipe, evaluate, train
from tests.tasks.own import Own


def read(data: Data, epoch: int = 1, start: int = 0, accumulate: int = 1) -> list[Any]:
    return list(data.training(8, seed=3, accumulate=accumulate).epoch(epoch, start))


def flat(batches: list[Any]) -> torch.Tensor:
    return torch.cat([torch.cat([*batch["vectors"], batch["targets"]]) for batch in batches])


def test_samples_draw_the_same_in_workers_later_and_on_more_processes() -> None:
    one = read(Data(Own()))
    assert len(one) == 5
    assert torch.equal(flat(read(Data(Own(), workers=2))), flat(one))
    assert torch.equal(flat(read(Data(Own()), start=3)), flat(one[3:]))
    assert not torch.equal(flat(read(Data(Own()), epoch=2)), flat(one))
    for size in (2, 4):
        worlds = [read(Data(Own(), rank=rank, world_size=size)) for rank in range(size)]
        for whole, *parts in zip(one, *worlds, strict=True):
            joined = [vector for part in parts for vector in part["vectors"]]
            assert all(torch.equal(a, b) for a, b in zip(whole["vectors"], joined, strict=True))
            assert torch.equal(whole["targets"], torch.cat([part["targets"] for part in parts]))
    halves = read(Data(Own()), accumulate=2)
    assert len(halves) == 10
    assert torch.equal(torch.cat([half["targets"] for half in halves]), torch.cat([each["targets"] for each in one]))


@pytest.mark.parametrize("task", [Own(), Text(context=32)])
def test_epoch_from_its_end_is_empty(task: Any) -> None:
    batches = Data(task).training(8)
    assert list(batches.epoch(0, len(batches))) == []


@dataclass
class Sometimes(Dataset[Any]):
    """Samples that draw from one of the global generators if their index is 5."""

    draw: Callable[[], float]

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, self.draw() if index == 5 else 0.0], dtype=torch.float64)


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(()).item()])
def test_only_samples_that_draw_are_seeded(draw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mine(Own):
        def dataset(self, split: str) -> Any:
            return Sometimes(draw)

        def collate(self, samples: list[Any]) -> Any:
            return torch.stack(samples)

    data, before = Data(Mine()), generator_states()
    seeds = list[int]()
    monkeypatch.setattr("autosparse.tasks.data.start_generators", lambda seed: seeds.append(seed) or start(seed))
    first = [torch.cat(list(data.scoring(4))) for _ in range(2)]
    assert len(seeds) == 3 * 5 + 4 * 5  # none before the batch with the sample 5
    assert generator_states() == before
    with seeded(stream("random numbers of a sample", stream("scoring"), 5)):
        assert first[0][5, 1].item() == draw()
    assert torch.equal(*first)
    assert torch.equal(torch.cat(list(Data(Mine(), workers=1).scoring(4))), first[0])


def test_tensors_are_cut_from_memory_and_in_the_order_of_images() -> None:
    data = Data(Text(context=32))
    inputs, targets = next(data.training(8, seed=3).epoch(0))
    assert (inputs.shape, targets.shape) == ((8, 32), (8, 32))
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    images = Images(source="digits", validation=0.0)
    own, tensors = Data(images), images.dataset("train")
    generator = torch.Generator().manual_seed(stream("order of samples", 3, 1))
    first = torch.randperm(len(tensors), generator=generator)[:8]
    assert torch.equal(next(own.training(8, seed=3).epoch(1))[0], tensors[first][0])


@pytest.mark.parametrize("act", ["gradient", "training", "evaluation"])
@pytest.mark.parametrize("kind", [Images, Text])
def test_overriding_subclass_is_obeyed_with_the_same_numbers(
    kind: Any, act: str, accelerator: Accelerator, tmp_path: Path
) -> None:
    """Images are augmented also where `collate` is overridden."""
    called = set[str]()

    def spy(name: str) -> Any:
        def method(self: Any, *arguments: Any) -> Any:
            called.add(name)
            return getattr(kind, name)(self, *arguments)

        return method

    (tmp_path / "text").write_bytes(bytes(range(256)) * 8)
    options: dict[str, Any] = {"layers": 1, "width": 8, "context": 32, "text": tmp_path / "text"}
    mine = type("Mine", (kind,), {name: spy(name) for name in ("dataset", "collate", "loss", "metrics")})
    recipe = Recipe(1, "adam", 1e-3, augment=kind is Images, batch_size=8)
    results = []
    for each in (mine, kind):
        task = each(source="digits") if kind is Images else each(**options)
        torch.manual_seed(0)
        model, data = task.model(), Data(task)
        layout = Layout.of(model, exclude=["*tokens*", "*positions*"] * (kind is Text))
        batches = data.scoring(8, limit=2)
        scoring = Scoring(batches, batches.loss)
        assert called == ({"dataset"} if each is mine else set())
        called.clear()
        if act == "gradient":
            results.append(mean_gradient(model, layout, scoring))
        elif act == "training":
            train(model, Mask.full(layout), data, recipe, accelerator, steps=2)
            results.append(layout.flatten(layout.weights(model)).detach())
        else:
            results.append(torch.tensor(list(evaluate(model, data, "validation", accelerator, recipe).values())))
        if each is mine:
            assert called == {"collate", "metrics" if act == "evaluation" else "loss"}
            called.clear()
    assert not called
    assert torch.equal(*results)


def test_data_set_without_length_or_samples_raises() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Any:
            return iter(range(3))

    @dataclass(frozen=True, kw_only=True)
    class Wrong(Own):
        found: Any = None

        def dataset(self, split: str) -> Any:
            return self.found

    for found, message in (
        (Stream(), "the train data set is a stream, Stream; a map-style one is needed"),
        (None, "the task has no train samples"),
        (TensorDataset(torch.zeros(0, 2)), "the train data set is empty"),
    ):
        with pytest.raises(UserError, match=message):
            Data(Wrong(found=found))
    with pytest.raises(UserError, match="cut evenly over 1 processes in 3 pieces each"):
        Data(Own()).training(8, accumulate=3)
    with pytest.raises(UserError, match="one's own data set augments itself"):
        Data(Own()).training(8, augment=True)


def test_random_numbers_of_collate_are_seeded() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Masking(Own):
        def collate(self, samples: list[Any]) -> Any:
            return {**super().collate(samples), "drawn": torch.rand(3)}

    task = Masking()
    one, two = read(Data(task)), read(Data(task), start=2)
    assert all(torch.equal(a["drawn"], b["drawn"]) for a, b in zip(one[2:], two, strict=True))
    assert not torch.equal(one[0]["drawn"], read(Data(task), epoch=2)[0]["drawn"])
    passes = [[batch["drawn"] for batch in Data(task).scoring()] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*passes, strict=True))


def test_data_set_that_extends_tensor_dataset_is_read_by_its_own_method() -> None:
    class Doubled(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            return tuple(2 * tensor[index] for tensor in self.tensors)

    @dataclass(frozen=True, kw_only=True)
    class Changed(Own):
        def dataset(self, split: str) -> Any:
            return Doubled(torch.arange(16.0))

        def collate(self, samples: list[Any]) -> Any:
            return torch.stack([sample for (sample,) in samples])

    assert next(iter(Data(Changed()).scoring(16))).tolist() == [2.0 * k for k in range(16)]
