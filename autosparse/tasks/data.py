"""The data of a task: batches cut from a device's memory if the samples are tensors that fit, else read one by one."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from autosparse.criteria.loss import CrossEntropy, Loss
from autosparse.errors import UserError
from autosparse.generators import generator_states, restore_generators, restoring_generators, start_generators
from autosparse.seeds import stream
from autosparse.tasks.base import Split, Task
from autosparse.tasks.image_set import ImageSet
from autosparse.tasks.images import Images

_MEMORY_FRACTION = 0.25  # of a GPU's free memory, for one data set
_LOWER = re.compile("error|loss|mse|mae|perplexity|bpb|nll|(?<![a-z])wer(?![a-z])")  # names of metrics to minimize


class Data:
    """Batches, loss and metrics of a task on one process.

    Random numbers that a data set draws for a sample are seeded by (seed, epoch, index), whichever process reads it;
    random numbers of `collate` by the index of the first sample. Scoring and evaluation seed by the index alone. The
    global generators keep their states.

    Args:
        task: the task, which decides on data sets, collation, loss and metrics.
        device: device of the batches.
        rank, world_size: this process and the number of processes; each takes its part of the same global batches.
        workers: number of worker processes that read samples outside the device's memory; 0 reads in this process.
    """

    def __init__(
        self, task: Task, device: torch.device | str = "cpu", rank: int = 0, world_size: int = 1, workers: int = 0
    ) -> None:
        self.task, self.device = task, torch.device(device)
        self.rank, self.world_size = rank, world_size
        self.better, self.scoring_batch = task.better, task.scoring_batch
        self._sources = dict[str, Resident | Collated]()
        splits: tuple[Split, ...] = ("train", "validation", "test")
        for split in splits:
            dataset = task.dataset(split)
            if dataset is None and split != "validation":
                raise UserError(f"the task has no {split} samples, and they are needed")
            if dataset is not None:
                self._sources[split] = _make_source(dataset, split, task, self.device, workers)

    def __len__(self) -> int:
        """Return the number of training samples."""
        return len(self._sources["train"])

    @property
    def has_validation(self) -> bool:
        """True if there is a validation split."""
        return "validation" in self._sources

    def training(self, batch_size: int, seed: int = 0, augment: bool = False, accumulate: int = 1) -> "ShuffledBatches":
        """Return shuffled batches of the training samples.

        Args:
            batch_size: samples per step over all processes.
            seed: seed of the order of samples, their random numbers and augmentation.
            augment: whether to crop and flip images at random.
            accumulate: pieces into which this process's part of a batch is cut.
        """
        source = self._sources["train"]
        if augment and not isinstance(source.dataset, ImageSet):
            raise UserError(
                "a recipe's crop and flip are for the data sets of the task images; one's own data set augments "
                "itself: give the task a recipe with augment=False"
            )
        return ShuffledBatches(self, source, batch_size, seed, augment, accumulate)

    def scoring(self, batch_size: int | None = None, limit: int | None = None) -> "FixedBatches":
        """Return the training samples in fixed order, without augmentation, `limit` batches over all processes.

        Default: the task's `scoring_batch`, and all batches.
        """
        return FixedBatches(self, self._sources["train"], batch_size or self.scoring_batch, limit)

    def evaluation(self, split: str) -> "FixedBatches":
        """Return the samples of `test` or `validation` in fixed order."""
        return FixedBatches(self, self._sources[split], self.task.evaluation_batch, None)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the task's sums and counts of a batch by name, and check the first metric's direction."""
        metrics = self.task.metrics(model, batch)
        if not isinstance(metrics, Mapping) or not all(map(_is_pair, metrics.values())):
            raise UserError(
                "metrics must return a sum and a count by name, as in {'accuracy': (right, count)}, whose quotient "
                f"over all batches is the metric; it returns {' '.join(repr(metrics).split())[:100]}"
            )
        kind = next(kind for kind in type(self.task).__mro__ if {"better", "metrics"} & vars(kind).keys())
        first = next(iter(metrics), None)
        guess = "lower" if first and _LOWER.search(first.lower()) else "higher"
        if first and "better" not in vars(kind) and self.better != guess:
            raise UserError(
                f"is the metric {first!r} better higher or lower? say it in the class {kind.__name__}: "
                "better = 'lower', or better = 'higher'"
            )
        return metrics


@dataclass(frozen=True)
class FixedBatches:
    """Batches in fixed order, dealt whole to the processes in turn.

    Batch normalization therefore sees the same batches for any number of processes.
    """

    data: Data
    source: "Resident | Collated"
    batch_size: int
    limit: int | None

    def __len__(self) -> int:
        """Return the number of batches of this process."""
        return -(-len(self._order()) // self.batch_size)

    @property
    def loss(self) -> Loss:
        """The task's loss. For `Images.loss` it is `CrossEntropy`, which some criteria take apart."""
        task = self.data.task
        return CrossEntropy() if type(task).loss is Images.loss else task.loss

    def __iter__(self) -> Iterator[Any]:
        return self.source.batches(self._order(), self.batch_size, stream("scoring"))

    def _order(self) -> Tensor:
        stop = min(len(self.source), self.limit * self.batch_size) if self.limit else len(self.source)
        parts = torch.arange(stop).split(self.batch_size)[self.data.rank :: self.data.world_size]
        return torch.cat([torch.arange(0), *parts])


@dataclass(frozen=True)
class ShuffledBatches:
    """Shuffled batches, a function of (seed, epoch, step) for any number of processes.

    Each epoch leaves out the samples after its last whole batch, unless there is only one batch. A process reads its
    part of a batch in `accumulate` pieces.
    """

    data: Data
    source: "Resident | Collated"
    batch_size: int
    seed: int
    augment: bool
    accumulate: int

    def __post_init__(self) -> None:
        size, world_size = min(self.batch_size, len(self.source)), self.data.world_size
        if size % (world_size * self.accumulate):
            pieces = f" in {self.accumulate} pieces each" if self.accumulate > 1 else ""
            raise UserError(
                f"a batch of {size} cannot be cut evenly over {world_size} processes{pieces}; choose another batch size"
            )

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""
        return max(1, len(self.source) // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Return the samples of each global batch of an epoch, int64 (steps, batch)."""
        samples, size = len(self.source), min(self.batch_size, len(self.source))
        generator = torch.Generator().manual_seed(stream("order of samples", self.seed, epoch))
        return torch.randperm(samples, generator=generator)[: len(self) * size].view(len(self), size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Return this process's pieces of the batches from step `start` on."""
        steps = self.order(epoch)[start:]
        part = steps.shape[1] // self.data.world_size
        mine = slice(self.data.rank * part, (self.data.rank + 1) * part)
        draws = self._draws(epoch, start, steps.shape[1])[..., mine].flatten(1) if self.augment else None
        size, seed = part // self.accumulate, stream("sample", self.seed, epoch)
        return self.source.batches(steps[:, mine].flatten(), size, seed, draws)

    def _draws(self, epoch: int, start: int, batch: int) -> Tensor:
        """Return the draws of `crop_and_flip` for the global batches from a step on, float32 (3, steps, batch)."""
        generator = torch.Generator()
        draws = torch.empty((len(self) - start, 3, batch), dtype=torch.float32)
        for step, row in enumerate(draws, start):
            generator.manual_seed(stream("augmentation", self.seed, epoch, step))
            torch.rand(row.shape, generator=generator, out=row)
        return draws.movedim(1, 0)


@dataclass(frozen=True)
class Resident:
    """Samples as tensors in a device's memory, from which batches are cut."""

    dataset: TensorDataset

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, indices: Tensor, size: int, seed: int, draws: Tensor | None = None) -> Iterator[Any]:
        """Yield the samples in batches; see `Collated.batches`."""
        data: Any = self.dataset
        device = data.tensors[0].device
        # Everything is copied from the host before the first step: a copy in between would wait for the GPU.
        indices, draws = indices.to(device), None if draws is None else draws.to(device)
        for part in _slices(indices, size):
            yield data[indices[part]] if draws is None else data.augmented(indices[part], draws[:, part])


@dataclass
class Collated(Dataset[Any]):
    """Samples that are read one by one and collated, in this process or in workers.

    Attributes:
        random: whether samples or `collate` draw random numbers. This process detects it while reading; in workers,
            whose copies are discarded, it is always True.
    """

    dataset: "Dataset[Any]"
    collate: Callable[[list[Any]], Any]
    device: torch.device
    workers: int
    random: bool

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def batches(self, indices: Tensor, size: int, seed: int, draws: Tensor | None = None) -> Iterator[Any]:
        """Yield the samples of some indices, int64 (n,), in batches.

        `seed` is the seed of the random numbers that samples and `collate` draw. `draws`, float32 (3, n), are random
        numbers for `crop_and_flip`; without them images are not augmented.
        """
        keys = [
            (indices[part].tolist(), None if draws is None else draws[:, part].T, seed)
            for part in _slices(indices, size)
        ]
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=keys,
            num_workers=self.workers,
            collate_fn=_identity,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # else it seeds its workers from the global generator
        )
        for batch in loader:
            yield send_to_device(batch, self.device, non_blocking=True)

    def __getitem__(self, key: tuple[list[int], Tensor | None, int]) -> Any:
        """Return the batch of (indices, draws or None, seed)."""
        indices, draws, seed = key
        if not self.random:
            before = generator_states()
            batch = self._collate(indices, draws, lambda purpose, index: None)
            if generator_states() == before:
                return batch
            restore_generators(before)
            self.random = True  # so the batch is read again, seeded
        with restoring_generators():
            return self._collate(indices, draws, lambda purpose, index: start_generators(stream(purpose, seed, index)))

    def _collate(self, indices: list[int], draws: Tensor | None, start: Callable[[str, int], None]) -> Any:
        samples, data = [], cast(Any, self.dataset)
        for k, index in enumerate(indices):
            start("random numbers of a sample", index)
            if draws is None:
                samples.append(data[index])
            else:
                images, labels = data.augmented(torch.tensor([index]), draws[k, :, None])
                samples.append((images[0], labels[0]))
        start("random numbers of a batch", indices[0])
        return self.collate(samples)


def _slices(indices: Tensor, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, len(indices), size)]


def _is_pair(value: Any) -> bool:
    """Return True for two numbers or tensors of one element."""
    return isinstance(value, tuple | list) and [getattr(part, "numel", lambda: 1)() for part in value] == [1, 1]


def _identity(batch: Any) -> Any:
    return batch


def _make_source(dataset: Any, split: str, task: Task, device: torch.device, workers: int) -> Resident | Collated:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise UserError(
            f"the {split} data set is a stream, {type(dataset).__name__}; a map-style one is needed, with a length and "
            "samples by index"
        )
    if not len(dataset):
        raise UserError(f"the {split} data set is empty")
    takes_indices = getattr(type(dataset), "__getitem__", None) in (TensorDataset.__getitem__, ImageSet.__getitem__)
    if not takes_indices or type(task).collate is not Task.collate or not _fits(dataset.tensors, device):
        return Collated(dataset, task.collate, device, workers, random=workers > 0)
    if isinstance(dataset, ImageSet):
        return Resident(dataset.to(device))
    return Resident(TensorDataset(*(tensor.to(device) for tensor in dataset.tensors)))


def _fits(tensors: Iterable[Tensor], device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return size < _MEMORY_FRACTION * torch.cuda.mem_get_info(device)[0]
