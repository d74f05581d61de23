"""Does a network of 139 million prunable weights go through IRP into a complete store, in how much time and memory?"""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from autosparse import networks
from autosparse.command import run
from autosparse.config import IRPConfig
from autosparse.data import ImageData, Images
from autosparse.irp import IRP
from autosparse.pruning import Layout
from autosparse.store import TripleStore
from autosparse.store.verify import problems
from autosparse.training import Recipe
from benchmarks.common import heading, peak_memory


@dataclass(frozen=True)
class Arguments:
    """One iteration of IRP on synthetic images of 32 x 32, and a reading of every byte of its store."""

    network: str = "vgg19-4096"
    """The network."""
    steps: int = 3
    """Training steps of each of the two trainings (before and after the pruning)."""
    batch_size: int = 32
    """Images in a step."""
    folder: Path | None = None
    """Where the run is kept; a temporary folder, deleted at the end, if not given."""


def main(a: Arguments) -> None:
    """Run and print."""
    heading()
    generator = np.random.Generator(np.random.PCG64(0))
    n = a.steps * a.batch_size
    x = generator.integers(0, 256, (n + 10, 3, 32, 32), np.uint8)
    y = np.arange(n + 10) % 10
    images = Images("synthetic", x[:n], y[:n], x[n:], y[n:])
    folder = a.folder or Path(tempfile.mkdtemp(prefix="autosparse-large-"))
    accelerator = Accelerator()
    try:
        model = networks.build(a.network, images.shape, images.classes).to(accelerator.device)
        layout = Layout.of(model)
        recipe = Recipe(1, "nesterov", 1e-3, batch_size=a.batch_size)
        built = peak_memory()
        start = time.perf_counter()
        IRP(
            model=model,
            data=ImageData(images, accelerator.device),
            recipe=recipe,
            config=IRPConfig(iterations=1, final_sparsity=0.9),
            folder=folder,
            accelerator=accelerator,
            grad_batches=1,
        ).run()
        pruned, peak = time.perf_counter(), peak_memory()
        found = problems(TripleStore.open(folder))
        verified = time.perf_counter()
        size = sum(path.stat().st_size for path in (folder / "triples.zarr").rglob("*") if path.is_file())
        print(f"\n{a.network}: {layout.size:,} prunable weights, {layout.size * 4 / 2**30:.2f} GiB as float32\n")
        print("| | |\n| --- | ---: |")
        print(f"| IRP, one iteration, 2 x {a.steps} steps of {a.batch_size} images | {pruned - start:.1f} s |")
        print(f"| verify, every byte | {verified - pruned:.1f} s |")
        print(f"| store | {size / 1e9:.2f} GB, {'whole' if not found else found[0]} |")
        print(f"| peak memory, model built | {built:.2f} GiB |")
        print(f"| peak memory, IRP | {peak:.2f} GiB |")
    finally:
        if a.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    run(Arguments, main)
