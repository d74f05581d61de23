"""How many images a second does IRP train on a GPU, compared with plain loops over a DataLoader on the same one?"""

import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchvision.transforms as transforms
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from autosparse import networks
from autosparse.command import run
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from autosparse.tasks import Data, Images
from autosparse.tasks.arrays import ImageArrays, load
from autosparse.tasks.base import Split
from autosparse.tasks.image_set import ImageSet, image_set
from autosparse.training import Recipe, train
from benchmarks.common import goal, heading, row, table

_GOAL = 5.0
_RECIPE = Recipe(1, "nesterov", 0.05, augment=True)


@dataclass(frozen=True)
class Arguments:
    """Train with crop and flip in this package's loop, a mask held, and in plain ones, which hold none.

    Timed from the end of an epoch's first step to the end of its last, on the device's own clock.
    """

    device: Literal["cuda", "cpu"] = "cuda"
    """Where to train; without a GPU, cuda is skipped."""
    network: str = "resnet18"
    """The network."""
    dataset: str = "cifar10"
    """The data set."""
    data_root: Path | None = None
    """Folder of the .npz files."""
    images: int | None = None
    """How many training images; all if not given."""
    batch_size: int = 128
    """Images in a step."""
    sparsity: float = 0.9
    """Share of the weights that the mask removes, at random."""
    workers: int = min(8, os.cpu_count() or 1)
    """Processes of the plain loops' DataLoader."""
    repeats: int = 3
    """Epochs timed, after one that is not; the median counts."""


@dataclass(frozen=True, kw_only=True)
class First(Images):
    """The first training images of a data set, and all that test."""

    count: int | None
    """How many; None for all."""

    @property
    def arrays(self) -> ImageArrays:
        """The images as uint8 arrays."""
        images = load(self.source, self.data_root)
        return replace(images, x_train=images.x_train[: self.count], y_train=images.y_train[: self.count])

    def dataset(self, split: Split) -> ImageSet | None:
        return image_set(self.arrays, split, 0.0)


@dataclass(frozen=True)
class Found:
    """Images a second; the peak of allocated GPU memory, resident data included, in GiB; waits for the GPU a step."""

    rate: float
    memory: float | None
    waits: float | None


Way = Callable[[Recipe, nn.Module, "Clock"], None]


class HostEvent:
    """The moment when the host records it; as `torch.cuda.Event`, for a device that the host waits for anyway."""

    def record(self) -> None:
        self._moment = time.perf_counter()

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def elapsed_time(self, other: "HostEvent") -> float:
        """Milliseconds until the other."""
        return 1000 * (other._moment - self._moment)


class Clock:
    """Told of every step, it marks the first and the last of each epoch on the device's own clock, without waiting."""

    def __init__(self, device: torch.device, steps: int) -> None:
        self._on_gpu, self._steps, self._told = device.type == "cuda", steps, 0
        self._marks: list[Any] = []

    def step(self, count: int = 1) -> None:
        """One step has been given to the device, or none."""
        self._told += count
        if not count or self._told % self._steps > 1:
            return
        if self._on_gpu:  # waits are counted in the epoch that is not timed, once compiling is done
            torch.cuda.set_sync_debug_mode("warn" if self._told == 1 else "default")
        self._marks.append(torch.cuda.Event(enable_timing=True) if self._on_gpu else HostEvent())
        self._marks[-1].record()

    def seconds(self) -> list[float]:
        """Return the seconds of each epoch, from the end of its first step to the end of its last."""
        self._marks[-1].synchronize()
        pairs = zip(self._marks[::2], self._marks[1::2], strict=True)
        return [first.elapsed_time(last) / 1000 for first, last in pairs]


class Plain(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's data sets give them: PIL, then crop, flip, ToTensor and Normalize, one at a time."""

    def __init__(self, images: ImageArrays) -> None:
        self.images, self.labels = images.x_train.transpose(0, 2, 3, 1), images.y_train
        if images.shape[0] == 1:
            self.images = self.images[..., 0]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(images.shape[1:], padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(*(value.flatten() / 255 for value in images.moments)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(np.ascontiguousarray(self.images[index]))), int(self.labels[index])


def plain(a: Arguments, images: ImageArrays, data: Data, model: nn.Module, recipe: Recipe, clock: Clock) -> None:
    """The loop that one writes first: a DataLoader with workers, a loss that is looked at after each step."""
    cuda = data.device.type == "cuda"
    batches = DataLoader(
        Plain(images),
        a.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=a.workers,
        pin_memory=cuda,
        persistent_workers=a.workers > 0,
    )
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    model.train()
    total = 0.0
    for _ in range(recipe.epochs):
        for inputs, targets in batches:
            inputs, targets = (each.to(data.device, non_blocking=True) for each in (inputs, targets))
            with torch.autocast(data.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                loss = F.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            clock.step()


def main(a: Arguments) -> None:
    """Time and print."""
    if a.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here, so nothing to measure: skipped (--device cpu runs the same on the CPU)")
        return
    accelerator = Accelerator(cpu=a.device == "cpu")
    task = First(source=a.dataset, data_root=a.data_root, count=a.images)
    images, data = task.arrays, Data(task, accelerator.device)
    recipe = replace(_RECIPE, epochs=1 + a.repeats, batch_size=a.batch_size)
    steps = len(data.training(recipe.batch_size))
    if len(data) < a.batch_size * 3:
        raise UserError(f"{len(data)} images in batches of {a.batch_size} are too few steps to time; at least 3")
    heading()
    fast = replace(recipe, precision="bf16", channels_last=True, compile=True)

    def ours(recipe: Recipe, model: nn.Module, clock: Clock) -> None:
        layout = Layout.of(model)
        drawn = torch.rand(layout.size, generator=torch.Generator().manual_seed(0)) >= a.sparsity
        mask = Mask(layout, drawn).to(data.device)
        train(model, mask, data, recipe, accelerator, progress=clock.step)

    def peer(recipe: Recipe, model: nn.Module, clock: Clock) -> None:
        plain(a, images, data, model, recipe, clock)

    def measured(way: Way, recipe: Recipe) -> Found:
        model = networks.build(a.network, images.shape, images.classes).to(data.device)
        clock = Clock(data.device, steps)
        if data.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            way(recipe, model, clock)
        seconds = statistics.median(clock.seconds()[1:])
        rate = (steps - 1) * a.batch_size / seconds
        if data.device.type != "cuda":
            return Found(rate, None, None)
        accelerator.free_memory()  # it keeps the models that it was given, which are not the next way's to answer for
        waits = sum("synchronizing CUDA operation" in str(warning.message) for warning in said)
        return Found(rate, torch.cuda.max_memory_allocated() / 2**30, waits / (steps - 1))

    ways: dict[str, tuple[Way, Recipe]] = {
        "this package, bf16, channels-last, compiled": (ours, fast),
        "this package, bf16, channels-last": (ours, replace(fast, compile=False)),
        "this package, float32": (ours, recipe),
        f"DataLoader, {a.workers} workers, bf16": (peer, replace(recipe, precision="bf16")),
        f"DataLoader, {a.workers} workers, float32": (peer, recipe),
    }
    per_epoch = f"{steps} steps of {a.batch_size} images an epoch"
    print(f"\n{a.network} on {a.dataset}, {per_epoch}; ours with {100 * a.sparsity:g}% of the weights masked\n")
    table("loop", "images/s", "ours to it", "ms a step", "peak GPU memory, GiB", "waits for the GPU a step")
    found: list[Found] = []
    for name, (way, how) in ways.items():
        found.append(measured(way, how))
        rate, memory, waits = found[-1].rate, found[-1].memory, found[-1].waits
        cells = f"{rate:,.0f}", f"{found[0].rate / rate:.2f}", f"{1000 * a.batch_size / rate:.2f}"
        row(name, *cells, "–" if memory is None else f"{memory:.2f}", "–" if waits is None else f"{waits:.1f}")
    print()
    for name, slow in zip(("bf16", "float32"), found[-2:], strict=True):
        times = found[0].rate / slow.rate
        goal(f"{_GOAL:g} times a DataLoader and {name}: {times:.1f}", times >= _GOAL)
    if found[0].waits is not None:
        goal(f"no wait for the GPU within an epoch: {found[0].waits:.1f} a step", found[0].waits == 0)


if __name__ == "__main__":
    run(Arguments, main)
