"""Batches cut from tensors that live on the training device, the same for any number of processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosparse.data import order
from autosparse.data.sources import Images
from autosparse.errors import UserError
from autosparse.seeds import stream

Batch = tuple[Tensor, Tensor]
SCORING_BATCH = 256  # images whose gradient is taken together; batch norm sees as many
_PAD = 4  # of the random crop


class ImageData:
    """A data set on a device: uint8 images, normalized as they are cut by the training images' mean and deviation.

    Args:
        images: the arrays.
        device: where they live and batches are made.
        validation: share of the training images held out, the same ones for every seed.
        rank, world_size: this process; every process cuts its part of the same global batches.
    """

    scoring_batch: ClassVar[int] = SCORING_BATCH
    better: ClassVar[Literal["higher", "lower"]] = "higher"

    def __init__(
        self,
        images: Images,
        device: torch.device | str = "cpu",
        validation: float = 0.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0.0 <= validation < 1.0:
            raise UserError(f"the validation share must lie in [0, 1), got {validation}")
        chosen = np.random.Generator(np.random.PCG64(0)).permutation(len(images.x_train))
        n = round(validation * len(chosen))
        self._splits: dict[str, Batch] = {}
        for name, x, y in (
            ("train", *_take(images.x_train, images.y_train, np.sort(chosen[n:]) if n else None)),
            ("validation", *_take(images.x_train, images.y_train, np.sort(chosen[:n]))),
            ("test", images.x_test, images.y_test),
        ):
            self._splits[name] = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
        self.shape, self.classes = images.shape, images.classes
        self.device = torch.device(device)
        self.rank, self.world_size = rank, world_size
        mean, deviation = _moments(images.x_train)
        self._mean, self._deviation = mean.to(device), deviation.to(device)

    def __len__(self) -> int:
        """Number of training images."""
        return len(self._splits["train"][1])

    @property
    def has_validation(self) -> bool:
        return len(self._splits["validation"][1]) > 0

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel of the training images, in 0..255, (C, 1, 1) each."""
        return self._mean, self._deviation

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) to float32 of mean 0 and deviation 1 a channel."""
        return (images.float() - self._mean) / self._deviation

    def training(self, batch_size: int, seed: int = 0, augment: bool = False, accumulate: int = 1) -> "TrainingBatches":
        """Shuffled batches of the training images."""
        return TrainingBatches(self, *self._splits["train"], batch_size, seed, augment, accumulate)

    def scoring(self, batch_size: int | None = None, limit: int | None = None) -> "FixedBatches":
        """The training images unaugmented, in fixed order; at most `limit` batches.

        Whole batches are dealt to the processes in turn, so that what batch normalization sees in a batch does not
        depend on how many there are.
        """
        return FixedBatches(self, *self._splits["train"], batch_size or SCORING_BATCH, limit)

    def evaluation(self, split: str, batch_size: int = 1024) -> "FixedBatches":
        """The images of `test` or `validation` in fixed order, dealt to the processes in turn."""
        return FixedBatches(self, *self._splits[split], batch_size, None)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean cross-entropy."""
        return cross_entropy(model, batch)

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """How many are classified rightly."""
        return accuracy(model, batch)


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """The mean cross-entropy of a batch of (inputs, targets)."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets)


def accuracy(model: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """`accuracy`: how many of a batch are classified rightly, and how many there are."""
    inputs, targets = batch
    right = (model(inputs).argmax(1) == targets).sum()
    return {"accuracy": (right, torch.full_like(right, len(targets)))}


@dataclass(frozen=True)
class FixedBatches:
    """Batches (inputs float32 (B, C, H, W), targets int64 (B,)) in fixed order; this process's part of them."""

    data: ImageData
    images: Tensor
    labels: Tensor
    batch_size: int
    limit: int | None

    def __iter__(self) -> Iterator[Batch]:
        data = self.data
        for start, end in order.dealt(len(self.labels), self.batch_size, self.limit, data.rank, data.world_size):
            yield data.normalize(self.images[start:end]), self.labels[start:end]


@dataclass(frozen=True)
class TrainingBatches:
    """Shuffled, optionally augmented batches: a pure function of (seed, epoch, step), cut over the processes.

    The last, smaller batch of an epoch is left out (a new order every epoch), unless it is the only one. A process's
    part of a batch comes in as many pieces as are accumulated.
    """

    data: ImageData
    images: Tensor
    labels: Tensor
    batch_size: int
    seed: int
    augment: bool
    accumulate: int = 1

    def __post_init__(self) -> None:
        order.check_even(len(self.labels), self.batch_size, self.data.world_size, self.accumulate)

    def __len__(self) -> int:
        """Steps in an epoch."""
        return order.steps(len(self.labels), self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """The images of each global batch of an epoch, int64 (steps, batch)."""
        return order.shuffled(len(self.labels), self.batch_size, self.seed, epoch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This process's part of the batches of an epoch, from step `start` on."""
        steps = self.order(epoch)
        part = steps.shape[1] // self.data.world_size
        mine = slice(self.data.rank * part, (self.data.rank + 1) * part)
        # all that comes from the host comes before the first step: a copy in between would wait for the GPU
        index = steps[start:, mine].to(self.data.device)
        draws = self._draws(epoch, start)[..., mine].to(self.data.device) if self.augment else None
        piece = part // self.accumulate
        for k in range(len(index)):
            for first in range(0, part, piece):
                chosen = index[k, first : first + piece]
                images = self.images[chosen]
                if draws is not None:
                    images = crop_and_flip(images, draws[k, :, first : first + piece])
                yield self.data.normalize(images), self.labels[chosen]

    def _draws(self, epoch: int, start: int) -> Tensor:
        """What `crop_and_flip` takes for the global batches from step `start` on, float32 (steps, 3, batch)."""
        generator = torch.Generator()
        shape = len(self) - start, 3, min(self.batch_size, len(self.labels))
        draws = torch.empty(shape, dtype=torch.float32)
        for step, row in enumerate(draws, start):
            generator.manual_seed(stream("augmentation", self.seed, epoch, step))
            torch.rand(row.shape, generator=generator, out=row)
        return draws


def crop_and_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Random crop of the images padded by 4 black pixels, and random horizontal flip, all images at once.

    Args:
        images: uint8 (B, C, H, W).
        draws: float (3, B), uniform in [0, 1): vertical offset, horizontal offset, flip.
    """
    height, width = images.shape[2:]
    offsets = (draws[:2] * (2 * _PAD + 1)).long()
    rows = offsets[0][:, None] + torch.arange(height, device=images.device)
    columns = offsets[1][:, None] + torch.arange(width, device=images.device)
    columns = torch.where(draws[2][:, None] < 0.5, columns, columns.flip(1))
    each = torch.arange(len(images), device=images.device)[:, None, None]
    # advanced indices around a slice: the channels come last
    return F.pad(images, [_PAD] * 4)[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _take(
    x: np.ndarray, y: np.ndarray, index: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:  # None: all, without a copy
    return (x, y) if index is None else (x[index], y[index])


def _moments(images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, (C, 1, 1) each, exact from the counts of the 256 values."""
    counts = np.zeros((images.shape[1], 256), np.int64)
    for chunk in np.array_split(images, -(-len(images) // 4096)):  # bincount takes eight times the memory of its input
        counts += [np.bincount(chunk[:, c].reshape(-1), minlength=256) for c in range(images.shape[1])]
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ np.arange(256.0)
    deviation = np.sqrt((share * (np.arange(256.0) - mean[:, None]) ** 2).sum(axis=1))
    mean, deviation = mean.reshape(-1, 1, 1), np.maximum(deviation, 1.0).reshape(-1, 1, 1)
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(deviation, dtype=torch.float32)
