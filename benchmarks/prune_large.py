"""From a network of 139 million prunable weights to its applied mask by AutoS: in how much time and memory?"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator

from autosparse import networks
from autosparse.api import check_sparsity
from autosparse.autos import LookupTable, StoredSamples, fit, tabulate_held_out
from autosparse.command import run
from autosparse.config import FitConfig, IRPConfig
from autosparse.criteria import Scoring
from autosparse.criteria.gradient import mean_gradient
from autosparse.irp import IRP
from autosparse.pruning import Layout, Mask, keep_top
from autosparse.pruning.schedule import keep_count
from autosparse.store import TripleStore
from autosparse.tasks import Data, Images
from autosparse.tasks.arrays import load
from autosparse.training import Recipe
from benchmarks.common import goal, heading, peak_during, resident_memory, row, scratch, seconds, table

T = TypeVar("T")
_GRADIENT = "gradient"
_SECONDS, _GIB = 10.0, 3.0


@dataclass(frozen=True)
class Arguments:
    """Time each part of pruning a network by AutoS on the CPU, in a process of its own, on random images of 32 x 32."""

    network: str = "vgg19-4096"
    """The network."""
    autos: Path | None = None
    """Folder of a fit. Default: an mlp is fitted to a short run of IRP on digits."""
    fit_steps: int = 200
    """Number of steps of the AutoS that is fitted here."""
    sparsity: float = 0.99
    """Share of the weights to remove."""
    batches: int = 2
    """Batches of the gradient."""
    batch_size: int = 64
    """Images in a batch."""
    folder: Path | None = None
    """Where a folder for the run and its fit is made, and deleted again."""


@dataclass(frozen=True)
class Part:
    """What one part of the pruning took; `peak` is of resident memory besides the model, GiB."""

    name: str
    seconds: float
    peak: float


def main(a: Arguments) -> None:
    """Time and print."""
    check_sparsity(a.sparsity)
    if a.autos:
        LookupTable.load(a.autos)  # raises before anything is measured
    heading()
    with scratch(a.folder) as folder:
        autos = a.autos or _fitted(folder, a.fit_steps)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            size, parts = pool.submit(_measure, a, autos).result()
    images = f"the gradient over {a.batches} x {a.batch_size} images"
    print(f"\n{a.network}, {size:,} prunable weights to {100 * a.sparsity:g}%, {images}\n")
    table("part", "seconds", "peak besides the model, GiB", right=1)
    rest = [part for part in parts if part.name != _GRADIENT]
    total = Part("all but the gradient", sum(part.seconds for part in rest), max(part.peak for part in rest))
    for part in [*parts, total]:
        row(part.name, f"{part.seconds:.2f}", f"{part.peak:.2f}")
    print()
    goal(f"all but the gradient within {_SECONDS:g} s: {total.seconds:.1f}", total.seconds <= _SECONDS)
    goal(f"within {_GIB:g} GiB besides the model: {total.peak:.2f}", total.peak <= _GIB)


def _fitted(folder: Path, steps: int) -> Path:
    """Return the folder of an AutoS, fitted in seconds to a run of IRP on digits."""
    images, accelerator = load("digits"), Accelerator(cpu=True)
    model = networks.build("lenet-300-100", images.shape, images.classes)
    IRP(
        model=model,
        data=Data(Images(source="digits", validation=0.0)),
        recipe=Recipe(2, "adam", 1.2e-3),
        config=IRPConfig(iterations=4),
        folder=folder / "run",
        accelerator=accelerator,
    ).run()
    samples = StoredSamples([TripleStore.open(folder / "run")], FitConfig(max_steps=steps))
    autos = fit(samples, accelerator)
    tabulate_held_out(autos, samples).save(folder / "autos")
    autos.save(folder / "autos")
    return folder / "autos"


def _measure(a: Arguments, folder: Path) -> tuple[int, list[Part]]:
    """Return the number of prunable weights and the parts."""
    lookup = LookupTable.load(folder)
    model = networks.build(a.network, (3, 32, 32), 10)
    layout = Layout.of(model)
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(a.batch_size, 3, 32, 32, generator=generator), torch.arange(a.batch_size) % 10)
        for _ in range(a.batches)
    ]
    k, before, parts = keep_count(1 - a.sparsity, layout.size), resident_memory(), list[Part]()

    def timed(name: str, action: Callable[[], T]) -> T:
        found: list[T] = []
        taken: list[float] = []
        peak = peak_during(lambda: taken.append(seconds(lambda: found.append(action()))))
        parts.append(Part(name, taken[0], (peak - before) / 1024))
        return found[0]

    grad = timed(_GRADIENT, lambda: mean_gradient(model, layout, Scoring(batches), lookup.batch_norm))
    theta = timed("weights", lambda: layout.flatten(layout.weights(model)))
    full = Mask.full(layout)
    scores = timed("scores", lambda: lookup.score(theta, grad))
    mask = timed("mask", lambda: keep_top(scores, k, full))
    timed("applied", lambda: mask.apply_(model))
    assert mask.count == k
    return layout.size, parts


if __name__ == "__main__":
    run(Arguments, main)
