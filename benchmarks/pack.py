"""How much sooner do several seeds of IRP end in a pack than one after another, and what bounds that?"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from autosparse import networks
from autosparse.command import run
from autosparse.config import IRPConfig
from autosparse.data import load
from autosparse.irp import IRP
from autosparse.pack import Pack
from autosparse.store import TripleStore
from autosparse.tasks import Data, Images
from autosparse.training import find_recipe
from benchmarks.common import goal, heading, median_seconds, row, scratch, seconds, table

_NUDGED = "1, weights nudged by their last bit"


@dataclass(frozen=True)
class Arguments:
    """Time whole runs of IRP of several seeds, one after another and in packs, and the parts of a training step."""

    device: Literal["cuda", "cpu"] = "cpu"
    """Where."""
    dataset: str = "mnist"
    """Any data set of grey images."""
    data_root: Path | None = None
    """Folder of the .npz files."""
    seeds: int = 8
    """How many runs there are."""
    packs: tuple[int, ...] = (2, 4, 8)
    """How many of them train together."""
    iterations: int = 2
    """Of each run, of one epoch a training."""
    repeats: int = 20
    """Of a step's parts; the median counts."""
    folder: Path | None = None
    """Where the stores are written."""


def main(a: Arguments) -> None:
    """Time and print."""
    heading()
    accelerator = Accelerator(cpu=a.device == "cpu")
    images = load(a.dataset, a.data_root)
    data = Data(Images(source=a.dataset, data_root=a.data_root), accelerator.device)
    recipe = find_recipe("short", "lenet-300-100", a.dataset).with_epochs(1)

    def irp(folder: Path, seed: int, nudged: bool = False) -> IRP:
        model = networks.build("lenet-300-100", images.shape, images.classes, seed=seed).to(accelerator.device)
        for weight in model.parameters() if nudged else ():
            weight.data *= 1 + torch.finfo(weight.dtype).eps
        return IRP(
            model=model,
            data=data,
            recipe=recipe,
            config=IRPConfig(iterations=a.iterations, seed=seed),
            folder=folder / str(seed),
            accelerator=accelerator,
            grad_batches=1,
        )

    def packed(folder: Path, size: int) -> None:
        for first in range(0, a.seeds, size):
            Pack([irp(folder, seed) for seed in range(first, min(first + size, a.seeds))]).run()

    print(f"\nlenet-300-100 on {a.dataset}: {a.seeds} runs of IRP of {a.iterations + 1} epochs each, on {a.device}\n")
    table("runs at once", "seconds", "of one after another", "survival alike, %")
    with scratch(a.folder) as folder:
        irp(folder / "warm", 0).run()
        taken = {size: seconds(partial(packed, folder / str(size), size)) for size in (1, *a.packs)}
        for seed in range(a.seeds):  # what rounding does to runs that are alone
            irp(folder / _NUDGED, seed, nudged=True).run()
        for size in (*taken, _NUDGED):
            alike = [_survival(folder / "1", seed) == _survival(folder / str(size), seed) for seed in range(a.seeds)]
            times = (f"{taken[size]:.1f}", f"{taken[size] / taken[1]:.2f}") if size in taken else ("", "")
            row(str(size), *times, f"{100 * np.mean(alike):.2f}")
    print()
    least, aim = min(taken, key=taken.__getitem__), 0.1 if a.device == "cuda" else 1 / 3
    goal(f"{a.seeds} runs in {aim:.2g} of the time of one after another", taken[least] <= aim * taken[1])
    _parts(a, recipe.batch_size, math.prod(images.shape))


def _survival(folder: Path, seed: int) -> NDArray[Any]:
    return TripleStore.open(folder / str(seed)).survival()


def _parts(a: Arguments, batch: int, inputs: int) -> None:
    """What a step of the first layer consists of: products of matrices, and Adam, whose time is that of the memory."""
    device = torch.device(a.device)
    x = torch.randn(a.seeds, batch, inputs, device=device)
    weight = torch.randn(a.seeds, inputs, 300, device=device)
    grad, together = torch.randn_like(weight), weight.clone().requires_grad_()
    apart = [each.clone().requires_grad_() for each in weight]

    def adam(parameters: list[Tensor], grads: list[Tensor]) -> Callable[[], object]:
        optimizers = [torch.optim.Adam([each], fused=True) for each in parameters]
        for parameter, own in zip(parameters, grads, strict=True):
            parameter.grad = own
        return lambda: [optimizer.step() for optimizer in optimizers]

    print(f"\nThe first layer, {inputs} x 300, of {a.seeds} networks, batches of {batch}\n")
    table("part of a step", "ms, one after another", "ms, stacked", "ratio")
    pairs = {
        "product with the weights": (lambda: [own @ w for own, w in zip(x, weight, strict=True)], lambda: x @ weight),
        "Adam": (adam(apart, [*grad.clone()]), adam([together], [grad])),
    }
    for name, (single, stacked) in pairs.items():
        times = [1e3 * median_seconds(action, a.repeats) for action in (single, stacked)]
        row(name, *(f"{each:.2f}" for each in times), f"{times[1] / times[0]:.2f}")


if __name__ == "__main__":
    run(Arguments, main)
