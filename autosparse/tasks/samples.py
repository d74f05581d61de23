"""Batches of any map-style data set: from a device's memory where it is tensors that fit, else by PyTorch's loader."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from autosparse.data import order
from autosparse.errors import UserError
from autosparse.generators import seeded
from autosparse.seeds import stream
from autosparse.tasks.base import Split, Task

_SHARE = 0.25  # of a GPU's free memory that a data set may take


class SampleData:
    """The data of a task on one process; see `autosparse.data.Data`.

    Random numbers that a data set draws for a sample are seeded by (seed, epoch, index), whichever process reads it,
    those of `collate` by the index of the first sample; of scoring and evaluation by the index alone. The generators
    are left as they were found.

    Args:
        task: whose data sets, loss and metrics.
        device: where batches are wanted.
        rank, world_size: this process.
        workers: processes that read what does not lie in the device's memory; 0 for this one.

    Raises:
        UserError: a data set without a length, or without samples; no training or test samples.
    """

    def __init__(
        self, task: Task, device: torch.device | str, rank: int = 0, world_size: int = 1, workers: int = 0
    ) -> None:
        self.task, self.device, self.workers = task, torch.device(device), workers
        self.rank, self.world_size = rank, world_size
        self.better: Literal["higher", "lower"] = task.better
        self.scoring_batch = max(1, task.recipe.batch_size // task.recipe.accumulate)
        self._splits = dict[str, Source]()
        splits: tuple[Split, ...] = ("train", "validation", "test")
        for split in splits:
            found = task.dataset(split)
            if found is None and split != "validation":
                raise UserError(f"the task has no {split} samples, and they are needed")
            if found is not None:
                self._splits[split] = _source(found, split, task, self.device, workers)

    def __len__(self) -> int:
        """Number of training samples."""
        return self._splits["train"].samples

    @property
    def has_validation(self) -> bool:
        return "validation" in self._splits

    def training(self, batch_size: int, seed: int = 0, augment: bool = False, accumulate: int = 1) -> "ShuffledBatches":
        """Shuffled batches of the training samples.

        Raises:
            UserError: a recipe that augments images, or a batch that cannot be cut evenly.
        """
        if augment:
            raise UserError("a recipe's crop and flip are for the task images; one's own data set augments itself")
        return ShuffledBatches(self, self._splits["train"], batch_size, seed, accumulate)

    def scoring(self, batch_size: int | None = None, limit: int | None = None) -> "FixedBatches":
        """The training samples in fixed order; at most `limit` batches."""
        return FixedBatches(self, self._splits["train"], batch_size or self.scoring_batch, limit)

    def evaluation(self, split: str) -> "FixedBatches":
        """The samples of `test` or `validation` in fixed order."""
        return FixedBatches(self, self._splits[split], self.scoring_batch, None)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The task's."""
        return self.task.loss(model, batch)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """The task's."""
        return self.task.metrics(model, batch)


@dataclass(frozen=True)
class FixedBatches:
    """Batches in fixed order, whole ones dealt to the processes in turn; `loss` is what criteria take."""

    data: SampleData
    source: "Source"
    batch_size: int
    limit: int | None

    def __len__(self) -> int:
        """Batches of this process."""
        return len(self._spans())

    @property
    def loss(self) -> Any:
        """The task's loss."""
        return self.data.task.loss

    def __iter__(self) -> Iterator[Any]:
        return self.source.batches([torch.arange(*span) for span in self._spans()], stream("scoring"))

    def _spans(self) -> list[tuple[int, int]]:
        return order.dealt(self.source.samples, self.batch_size, self.limit, self.data.rank, self.data.world_size)


@dataclass(frozen=True)
class ShuffledBatches:
    """Shuffled batches; see `autosparse.data.EpochBatches`."""

    data: SampleData
    source: "Source"
    batch_size: int
    seed: int
    accumulate: int

    def __post_init__(self) -> None:
        order.check_even(self.source.samples, self.batch_size, self.data.world_size, self.accumulate)

    def __len__(self) -> int:
        """Steps in an epoch."""
        return order.steps(self.source.samples, self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """This process's part of the batches from step `start` on, in the pieces that are accumulated."""
        steps = order.shuffled(self.source.samples, self.batch_size, self.seed, epoch)[start:]
        part = steps.shape[1] // self.data.world_size
        mine = steps[:, self.data.rank * part : (self.data.rank + 1) * part]
        pieces = mine.reshape(-1, part // self.accumulate)
        return self.source.batches(list(pieces), stream("sample", self.seed, epoch))


@dataclass(frozen=True)
class Resident:
    """Tensors in a device's memory; batches are cut from them."""

    tensors: tuple[Tensor, ...]

    @property
    def samples(self) -> int:
        return len(self.tensors[0])

    def batches(self, indices: Sequence[Tensor], seed: int) -> Iterator[tuple[Tensor, ...]]:
        """A batch for each of the index vectors."""
        for index in indices:
            where = index.to(self.tensors[0].device)
            yield tuple(tensor[where] for tensor in self.tensors)


@dataclass(frozen=True)
class Read:
    """A data set whose samples are read one by one and collated, in this process or in workers."""

    dataset: "Dataset[Any]"
    collate: Any
    device: torch.device
    workers: int

    @property
    def samples(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def batches(self, indices: Sequence[Tensor], seed: int) -> Iterator[Any]:
        """A batch for each of the index vectors, on the device."""
        loader = DataLoader(
            Seeded(self.dataset, seed),
            batch_sampler=[index.tolist() for index in indices],
            num_workers=self.workers,
            collate_fn=Collated(self.collate, seed),
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # or it draws a seed for its workers from the global one
        )
        for batch in loader:
            yield send_to_device(batch, self.device, non_blocking=True)


@dataclass(frozen=True)
class Seeded(Dataset[Any]):
    """A data set whose samples draw the same random numbers whenever and wherever they are read."""

    dataset: "Dataset[Any]"
    seed: int

    def __getitem__(self, index: int) -> tuple[int, Any]:
        with seeded(stream("random numbers of a sample", self.seed, index)):
            return index, self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Collated:
    """Samples to a batch, whose random numbers are those of its first sample."""

    collate: Any
    seed: int

    def __call__(self, samples: list[tuple[int, Any]]) -> Any:
        with seeded(stream("random numbers of a batch", self.seed, samples[0][0])):
            return self.collate([sample for _, sample in samples])


Source = Resident | Read


def _source(found: Any, split: str, task: Task, device: torch.device, workers: int) -> Source:
    if isinstance(found, IterableDataset) or not hasattr(found, "__len__") or not hasattr(found, "__getitem__"):
        raise UserError(
            f"the {split} data set is a stream, {type(found).__name__}; a map-style one is needed, with a length and "
            "samples by index"
        )
    if not len(found):
        raise UserError(f"the {split} data set is empty")
    plain = isinstance(found, TensorDataset) and type(found).__getitem__ is TensorDataset.__getitem__
    if plain and type(task).collate is Task.collate and _fits(found.tensors, device):
        return Resident(tuple(tensor.to(device) for tensor in found.tensors))
    return Read(found, task.collate, device, workers)


def _fits(tensors: Iterable[Tensor], device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return size < _SHARE * torch.cuda.mem_get_info(device)[0]
