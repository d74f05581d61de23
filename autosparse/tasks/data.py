"""The data of a task: batches cut from a device's memory if the samples are tensors that fit, else read one by one."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, cast

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from autosparse.data import ImageSet, order
from autosparse.errors import UserError
from autosparse.generators import generator_states, restore_generators, restoring_generators, start_generators
from autosparse.seeds import stream
from autosparse.tasks.base import Split, Task
from autosparse.tasks.images import Images

_FRACTION = 0.25  # A data set takes at most this fraction of a GPU's free memory.
_LOWER = re.compile("error|loss|mse|mae|perplexity|bpb|nll|(?<![a-z])wer(?![a-z])")  # names of metrics to minimize


class Data:
    """Batches, loss and metrics of a task on one process.

    Random numbers that a data set draws for a sample are seeded by (seed, epoch, index), whichever process reads it,
    those of `collate` by the index of the first sample; of scoring and evaluation by the index alone. The generators
    are left as they were found.

    Args:
        task: the task, which decides on data sets, collation, loss and metrics.
        device: device of the batches.
        rank, world_size: number of this process and of all; each cuts its part of the same global batches.
        workers: processes that read samples that are not in the device's memory; 0 for this one.

    Raises:
        UserError: a data set without a length, or without samples; no training or test samples.
    """

    def __init__(
        self, task: Task, device: torch.device | str = "cpu", rank: int = 0, world_size: int = 1, workers: int = 0
    ) -> None:
        self.task, self.device = task, torch.device(device)
        self.rank, self.world_size = rank, world_size
        self.better, self.scoring_batch = task.better, task.scoring_batch
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
        """Whether there is a validation split."""
        return "validation" in self._splits

    def training(self, batch_size: int, seed: int = 0, augment: bool = False, accumulate: int = 1) -> "ShuffledBatches":
        """Return shuffled batches of the training samples.

        Raises:
            UserError: a recipe that augments other data than images, or a batch that cannot be cut evenly.
        """
        source = self._splits["train"]
        if augment and not isinstance(source.dataset, ImageSet):
            raise UserError(
                "a recipe's crop and flip are for the data sets of the task images; one's own data set augments "
                "itself: give the task a recipe with augment=False"
            )
        return ShuffledBatches(self, source, batch_size, seed, augment, accumulate)

    def scoring(self, batch_size: int | None = None, limit: int | None = None) -> "FixedBatches":
        """Return the training samples in fixed order, not augmented; at most `limit` batches.

        Whole batches are dealt to the processes in turn, so that what batch normalization sees in a batch does not
        depend on how many there are.
        """
        return FixedBatches(self, self._splits["train"], batch_size or self.scoring_batch, limit)

    def evaluation(self, split: str) -> "FixedBatches":
        """Return the samples of `test` or `validation` in fixed order, dealt to the processes in turn."""
        return FixedBatches(self, self._splits[split], self.task.evaluation_batch, None)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the task's mean loss of a batch."""
        return self.task.loss(model, batch)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the task's sums and counts of a batch by name.

        Raises:
            UserError: metrics of another form, or a first metric whose class does not say which way it is better.
        """
        found = self.task.metrics(model, batch)
        if not isinstance(found, Mapping) or not all(map(_is_pair, found.values())):
            raise UserError(
                "metrics must return a sum and a count by name, as in {'accuracy': (right, count)}, whose quotient "
                f"over all batches is the metric; it returns {' '.join(repr(found).split())[:100]}"
            )
        if found:
            self._check_direction(next(iter(found)))
        return found

    def _check_direction(self, metric: str) -> None:
        kind = next(kind for kind in type(self.task).__mro__ if {"better", "metrics"} & vars(kind).keys())
        if "better" not in vars(kind) and self.better != ("lower" if _LOWER.search(metric.lower()) else "higher"):
            raise UserError(
                f"is the metric {metric!r} better higher or lower? say it in the class {kind.__name__}: "
                "better = 'lower', or better = 'higher'"
            )


@dataclass(frozen=True)
class FixedBatches:
    """Batches in fixed order, whole ones dealt to the processes in turn; `loss` is what criteria take."""

    data: Data
    source: "Source"
    batch_size: int
    limit: int | None

    def __len__(self) -> int:
        """Number of batches of this process."""
        return -(-len(self._order()) // self.batch_size)

    @property
    def loss(self) -> Any:
        """The task's loss; None for that of images, the cross-entropy that criteria know by themselves."""
        task = self.data.task
        return None if type(task).loss is Images.loss else task.loss

    def __iter__(self) -> Iterator[Any]:
        return self.source.batches(self._order(), self.batch_size, stream("scoring"))

    def _order(self) -> Tensor:
        return order.dealt(self.source.samples, self.batch_size, self.limit, self.data.rank, self.data.world_size)


@dataclass(frozen=True)
class ShuffledBatches:
    """Shuffled batches, images augmented if wanted: a pure function of (seed, epoch, step), cut over the processes.

    The last, smaller batch of an epoch is left out (a new order every epoch), unless it is the only one. A process's
    part of a batch comes in as many pieces as are accumulated.
    """

    data: Data
    source: "Source"
    batch_size: int
    seed: int
    augment: bool
    accumulate: int

    def __post_init__(self) -> None:
        order.check_even(self.source.samples, self.batch_size, self.data.world_size, self.accumulate)

    def __len__(self) -> int:
        """Number of steps in an epoch."""
        return order.steps(self.source.samples, self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Return the samples of each global batch of an epoch, int64 (steps, batch)."""
        return order.shuffled(self.source.samples, self.batch_size, self.seed, epoch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Return this process's part of the batches from step `start` on, in the pieces that are accumulated."""
        steps = self.order(epoch)[start:]
        part = steps.shape[1] // self.data.world_size
        mine = slice(self.data.rank * part, (self.data.rank + 1) * part)
        draws = self._draws(epoch, start, steps.shape[1])[..., mine].flatten(1) if self.augment else None
        size, seed = part // self.accumulate, stream("sample", self.seed, epoch)
        return self.source.batches(steps[:, mine].flatten(), size, seed, draws)

    def _draws(self, epoch: int, start: int, batch: int) -> Tensor:
        """Return what `crop_and_flip` takes for the global batches from step `start` on, float32 (3, steps, batch)."""
        generator = torch.Generator()
        draws = torch.empty((len(self) - start, 3, batch), dtype=torch.float32)
        for step, row in enumerate(draws, start):
            generator.manual_seed(stream("augmentation", self.seed, epoch, step))
            torch.rand(row.shape, generator=generator, out=row)
        return draws.movedim(1, 0)


@dataclass(frozen=True)
class Resident:
    """Tensors in a device's memory; batches are cut from them."""

    dataset: TensorDataset

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def batches(self, indices: Tensor, size: int, seed: int, draws: Tensor | None = None) -> Iterator[Any]:
        """Yield samples `size` at a time, images cropped and flipped by draws (3, samples) if there are any."""
        data: Any = self.dataset
        device = data.tensors[0].device
        # Copies come before the first step: one in between would wait for the GPU.
        indices, draws = indices.to(device), None if draws is None else draws.to(device)
        for part in _parts(indices, size):
            yield data[indices[part]] if draws is None else data.augmented(indices[part], draws[:, part])


@dataclass
class Read:
    """A data set whose samples are read one by one and collated, in this process or in workers.

    Attributes:
        random: whether samples or `collate` draw random numbers. This process finds out when it reads. Workers always
            draw from seeds, because their copies of this object forget.
    """

    dataset: "Dataset[Any]"
    collate: Any
    device: torch.device
    workers: int
    random: bool

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.dataset)  # type: ignore[arg-type]

    def batches(self, indices: Tensor, size: int, seed: int, draws: Tensor | None = None) -> Iterator[Any]:
        """Yield samples `size` at a time, images cropped and flipped by draws (3, samples) if there are any."""
        loader = DataLoader(
            Seeded(self, seed),
            batch_size=None,
            sampler=[
                (indices[part].tolist(), None if draws is None else draws[:, part].T) for part in _parts(indices, size)
            ],
            num_workers=self.workers,
            collate_fn=_as_it_is,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # or it draws a seed for its workers from the global one
        )
        for batch in loader:
            yield send_to_device(batch, self.device, non_blocking=True)


@dataclass(frozen=True)
class Seeded(Dataset[Any]):
    """A data set of batches, whose random numbers are the same whenever and wherever they are read."""

    source: Read
    seed: int

    def __getitem__(self, key: tuple[list[int], Tensor | None]) -> Any:
        """Return the batch of some samples, images cropped and flipped by draws (samples, 3) if there are any."""
        if not self.source.random:
            before = generator_states()
            batch = self._batch(*key, lambda purpose, index: None)
            if generator_states() == before:
                return batch
            restore_generators(before)
            self.source.random = True  # so the batch is read again
        with restoring_generators():
            return self._batch(*key, self._start)

    def _batch(self, indices: list[int], draws: Tensor | None, start: Callable[[str, int], None]) -> Any:
        samples, data = [], cast(Any, self.source.dataset)
        for k, index in enumerate(indices):
            start("random numbers of a sample", index)
            if draws is None:
                samples.append(data[index])
            else:
                images, labels = data.augmented(torch.tensor([index]), draws[k, :, None])
                samples.append((images[0], labels[0]))
        start("random numbers of a batch", indices[0])
        return self.source.collate(samples)

    def _start(self, purpose: str, index: int) -> None:
        start_generators(stream(purpose, self.seed, index))


def _parts(indices: Tensor, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, len(indices), size)]


def _as_it_is(batch: Any) -> Any:
    return batch


def _is_pair(value: Any) -> bool:
    numbers = isinstance(value, tuple | list) and len(value) == 2
    return numbers and all(isinstance(each, Real) or (isinstance(each, Tensor) and each.numel() == 1) for each in value)


Source = Resident | Read


def _source(found: Any, split: str, task: Task, device: torch.device, workers: int) -> Source:
    if isinstance(found, IterableDataset) or not hasattr(found, "__len__") or not hasattr(found, "__getitem__"):
        raise UserError(
            f"the {split} data set is a stream, {type(found).__name__}; a map-style one is needed, with a length and "
            "samples by index"
        )
    if not len(found):
        raise UserError(f"the {split} data set is empty")
    cuts = getattr(type(found), "__getitem__", None) in (TensorDataset.__getitem__, ImageSet.__getitem__)
    if cuts and type(task).collate is Task.collate and _fits(found.tensors, device):
        return Resident(
            found.to(device)
            if isinstance(found, ImageSet)
            else TensorDataset(*(tensor.to(device) for tensor in found.tensors))
        )
    return Read(found, task.collate, device, workers, random=workers > 0)


def _fits(tensors: Iterable[Tensor], device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return size < _FRACTION * torch.cuda.mem_get_info(device)[0]
