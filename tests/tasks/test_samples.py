"""Batches of a task's own data sets: whose turn a sample is, and what it draws, depends on nothing else."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset

from autosparse.data import Data
from autosparse.errors import UserError
from autosparse.seeds import stream
from autosparse.tasks import Images, Text
from tests.tasks.own import Own

CPU = torch.device("cpu")


def read(data: Data, epoch: int = 1, start: int = 0, accumulate: int = 1) -> list[Any]:
    return list(data.training(8, seed=3, accumulate=accumulate).epoch(epoch, start))


def flat(batches: list[Any]) -> torch.Tensor:
    return torch.cat([torch.cat([*batch["vectors"], batch["targets"]]) for batch in batches])


def test_samples_draw_the_same_in_workers_later_and_on_more_processes() -> None:
    one = read(Own().on(CPU))
    assert len(one) == 5
    assert torch.equal(flat(read(Own().on(CPU, workers=2))), flat(one))
    assert torch.equal(flat(read(Own().on(CPU), start=3)), flat(one[3:]))
    assert not torch.equal(flat(read(Own().on(CPU), epoch=2)), flat(one))
    for size in (2, 4):
        worlds = [read(Own().on(CPU, rank, size)) for rank in range(size)]
        for whole, *parts in zip(one, *worlds, strict=True):
            joined = [vector for part in parts for vector in part["vectors"]]
            assert all(torch.equal(a, b) for a, b in zip(whole["vectors"], joined, strict=True))
            assert torch.equal(whole["targets"], torch.cat([part["targets"] for part in parts]))
    halves = read(Own().on(CPU), accumulate=2)
    assert len(halves) == 10
    assert torch.equal(torch.cat([half["targets"] for half in halves]), torch.cat([each["targets"] for each in one]))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("batch", [8, 4096])
@pytest.mark.parametrize("task", [Own(), Text(context=32), Images(source="digits")])
def test_epoch_from_its_end_is_empty(task: Any, batch: int, accumulate: int) -> None:
    batches = task.on(CPU).training(batch, accumulate=accumulate)
    assert list(batches.epoch(0, len(batches))) == []


def test_the_global_generators_are_left_as_they_were() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    read(Own().on(CPU))
    list(Own().on(CPU).scoring())
    assert torch.equal(torch.get_rng_state(), before)


def test_scoring_deals_whole_batches_and_carries_the_loss() -> None:
    task = Own()
    one = task.on(CPU).scoring(8)
    assert one.loss == task.loss
    dealt = [list(task.on(CPU, rank, 2).scoring(8)) for rank in range(2)]
    for k, batch in enumerate(one):
        assert torch.equal(dealt[k % 2][k // 2]["targets"], batch["targets"])
    assert len(list(task.on(CPU).scoring(8, limit=2))) == 2


def test_tensors_are_cut_from_memory_and_in_the_order_of_images() -> None:
    data = Text(context=32).on(CPU)
    inputs, targets = next(data.training(8, seed=3).epoch(0))
    assert (inputs.shape, targets.shape) == ((8, 32), (8, 32))
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    images = Images(source="digits", validation=0.0)
    own, tensors = images.on(CPU), images.dataset("train")
    generator = torch.Generator().manual_seed(stream("order of samples", 3, 1))
    first = torch.randperm(len(tensors), generator=generator)[:8]
    assert torch.equal(next(own.training(8, seed=3).epoch(1))[0], tensors[first][0])


def test_what_has_no_length_or_no_samples_is_refused() -> None:
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
            Wrong(found=found).on(CPU)
    with pytest.raises(UserError, match="cut evenly over 1 processes in 3 pieces each"):
        Own().on(CPU).training(8, accumulate=3)
    with pytest.raises(UserError, match="one's own data set augments itself"):
        Own().on(CPU).training(8, augment=True)


def test_what_collate_draws_is_seeded_too() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Masking(Own):
        def collate(self, samples: list[Any]) -> Any:
            return {**super().collate(samples), "drawn": torch.rand(3)}

    task = Masking()
    one, two = read(task.on(CPU)), read(task.on(CPU, workers=0), start=2)
    assert all(torch.equal(a["drawn"], b["drawn"]) for a, b in zip(one[2:], two, strict=True))
    assert not torch.equal(one[0]["drawn"], read(task.on(CPU), epoch=2)[0]["drawn"])
    passes = [[batch["drawn"] for batch in task.on(CPU).scoring()] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*passes, strict=True))


def test_a_data_set_of_tensors_that_changes_them_is_asked_for_each() -> None:
    class Doubled(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            return tuple(2 * tensor[index] for tensor in self.tensors)

    @dataclass(frozen=True, kw_only=True)
    class Changed(Own):
        def dataset(self, split: str) -> Any:
            return Doubled(torch.arange(16.0))

        def collate(self, samples: list[Any]) -> Any:
            return torch.stack([sample for (sample,) in samples])

    assert next(iter(Changed().on(CPU).scoring(16))).tolist() == [2.0 * k for k in range(16)]
