"""Does a network of 100 million weights and more go through IRP into a complete store, in how much time and memory?"""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import TensorDataset

import autosparse
from autosparse import networks
from autosparse.command import run
from autosparse.config import IRPConfig
from autosparse.irp import IRP
from autosparse.pruning import Layout
from autosparse.store import TripleStore
from autosparse.tasks import Data, Text
from autosparse.training import Recipe
from benchmarks.common import Noise, heading, peak_memory


@dataclass(frozen=True)
class Arguments:
    """One iteration of IRP on synthetic images of 32 x 32 or text, and a reading of every byte of its store."""

    network: str = "vgg19-4096"
    """One by name (vgg19-4096 has 139 million weights), or gpt2, GPT-2 small of 124 million."""
    steps: int = 3
    """Training steps of each of the two trainings (before and after the pruning)."""
    batch_size: int = 32
    """Images in a step; of GPT-2 an eighth as many sequences of 128 bytes."""
    criteria: tuple[str, ...] = ()
    """Criteria that also prune the network at initialization, by one batch: pretrained, snip, ..."""
    folder: Path | None = None
    """Where the run is kept; a temporary folder, deleted at the end, if not given."""


@dataclass(frozen=True, kw_only=True)
class Few(Text):
    """GPT-2 small on as many sequences as a trial takes."""

    layers: int = 12
    heads: int = 12
    width: int = 768
    context: int = 128
    vocabulary: int = 50257
    samples: int = 12

    @property
    def recipe(self) -> Recipe:
        return Recipe(1, "adamw", 1e-4, batch_size=self.samples)

    def dataset(self, split: Any) -> TensorDataset:
        whole = super().dataset("train")
        return TensorDataset(*(tensor[: self.samples] for tensor in whole.tensors))  # type: ignore[attr-defined]


def main(a: Arguments) -> None:
    """Run and print."""
    heading()
    accelerator = Accelerator()
    torch.manual_seed(0)
    model, data, recipe, state = _gpt(a, accelerator) if a.network == "gpt2" else _vgg(a, accelerator)
    folder = a.folder or Path(tempfile.mkdtemp(prefix="autosparse-large-"))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    layout, training = Layout.of(model), parameters * 4 * state / 2**30
    print(f"\n{a.network}: {parameters:,} parameters, {layout.size:,} of them prunable\n\n| | |\n| --- | ---: |")
    try:
        built = peak_memory()
        for name in a.criteria:
            start = time.perf_counter()
            mask = autosparse.prune(model, [next(iter(data.scoring(a.batch_size)))], sparsity=0.9, criterion=name)
            seconds = time.perf_counter() - start
            print(f"| to 90% by {name}, {mask.count:,} kept | {seconds:.1f} s, peak {peak_memory():.2f} GiB |")
        start = time.perf_counter()
        IRP(
            model=model,
            data=data,
            recipe=recipe,
            config=IRPConfig(iterations=1, final_sparsity=0.9),
            folder=folder,
            accelerator=accelerator,
            grad_batches=1,
        ).run()
        pruned, peak = time.perf_counter(), peak_memory()
        found = TripleStore.open(folder).problems()
        verified = time.perf_counter()
        size = sum(path.stat().st_size for path in (folder / "triples.zarr").rglob("*") if path.is_file())
        print(f"| IRP, one iteration, 2 x {a.steps} steps of {recipe.batch_size} samples | {pruned - start:.1f} s |")
        print(f"| verify, every byte | {verified - pruned:.1f} s |")
        print(f"| store | {size / 1e9:.2f} GB, {'whole' if not found else found[0]} |")
        print(f"| peak memory, model built | {built:.2f} GiB |")
        print(
            f"| peak memory, IRP | {peak:.2f} GiB, {peak / training:.2f} of the training state ({training:.2f} GiB) |"
        )
    finally:
        if a.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def _vgg(a: Arguments, accelerator: Accelerator) -> tuple[nn.Module, Data, Recipe, int]:
    """Model, data, recipe, and how many numbers a parameter has in training: itself, its gradient, its momentum."""
    model = networks.build(a.network, (3, 32, 32), 10).to(accelerator.device)
    data = Data(Noise(count=a.steps * a.batch_size), accelerator.device)
    return model, data, Recipe(1, "nesterov", 1e-3, batch_size=a.batch_size), 3


def _gpt(a: Arguments, accelerator: Accelerator) -> tuple[nn.Module, Data, Recipe, int]:
    """As `_vgg`; AdamW keeps two numbers a parameter."""
    batch = max(1, a.batch_size // 8)
    task = Few(samples=a.steps * batch)
    recipe = Recipe(1, "adamw", 1e-4, batch_size=batch)
    return task.model().to(accelerator.device), Data(task, accelerator.device), recipe, 4


if __name__ == "__main__":
    run(Arguments, main)
