"""What is a sparse network worth without special hardware: its file next to the dense one, and its time here?

The file is what `Mask.compress` writes of a network with a random mask, over the dense state dict as safetensors. Timed
is one linear layer: torch's dense product, and the same weights as `torch.sparse_csr`. Zeros in a dense tensor, which
is what a mask leaves, take as long as any other numbers. Each product has its inputs in the order of memory that suits
it: samples by features where it is dense, features by samples where it is sparse.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import linear

from autosparse import networks
from autosparse.command import run
from autosparse.pruning import Layout, Mask
from benchmarks.common import goal, heading, median_seconds, row, scratch, table


@dataclass(frozen=True)
class Arguments:
    """Measure files and one layer's time at several sparsities."""

    network: str = "resnet18"
    """Whose files are compared."""
    width: int = 4096
    """Inputs and outputs of the layer that is timed."""
    batch_sizes: tuple[int, ...] = (1, 64)
    """Inputs at once."""
    sparsities: tuple[float, ...] = (0.9, 0.95, 0.98, 0.99)
    """Shares removed, at random."""
    repeats: int = 20
    """Times each is timed; the median counts."""
    folder: Path | None = None
    """Where the files go for as long as this takes; where temporary files go, if none."""


def main(a: Arguments) -> None:
    """Measure and print."""
    heading("safetensors")
    generator = torch.Generator().manual_seed(0)
    model = networks.build(a.network, (3, 32, 32), 10, seed=0)
    layout = Layout.of(model)
    print(f"\n{a.network}, {layout.size:,} prunable weights, float32: the file\n")
    table("sparsity", "dense, MB", "compressed, MB", "of dense", "over the kept values alone")
    smaller = []
    with scratch(a.folder) as folder:
        save_file(model.state_dict(), folder / "dense.safetensors")
        dense = (folder / "dense.safetensors").stat().st_size
        for sparsity in a.sparsities:
            mask = Mask(layout, torch.rand(layout.size, generator=generator) >= sparsity)
            mask.compress(model, folder / "model.safetensors")
            size = (folder / "model.safetensors").stat().st_size
            values = size / (dense - 4 * (layout.size - mask.count))
            row(f"{sparsity:.0%}", f"{dense / 1e6:.2f}", f"{size / 1e6:.2f}", f"{size / dense:.3f}", f"{values:.2f}")
            smaller.append((sparsity, size / dense))

    print(f"\na linear layer of {a.width:,} x {a.width:,}, float32: ms for a batch, median of {a.repeats}\n")
    table("sparsity", "inputs", "dense", "sparse_csr", "sparse_csr over dense", right=2)
    faster = []
    for sparsity in a.sparsities:
        weight = torch.randn(a.width, a.width, generator=generator)
        weight.masked_fill_(torch.rand(a.width, a.width, generator=generator) < sparsity, 0.0)
        compressed = weight.to_sparse_csr()
        for inputs in a.batch_sizes:
            x = torch.randn(inputs, a.width, generator=generator)
            columns = x.mT.contiguous()
            ways = partial(linear, x, weight), partial(torch.mm, compressed, columns)
            assert torch.allclose(ways[0](), ways[1]().mT, atol=1e-2)
            with torch.inference_mode():
                times = [median_seconds(way, a.repeats) for way in ways]
            row(f"{sparsity:.0%}", str(inputs), *(f"{1e3 * each:.2f}" for each in times), f"{times[1] / times[0]:.2f}")
            faster.append((sparsity, inputs, times[0] / times[1]))
    print()
    for sparsity, share in smaller:
        bound = 2 * (1 - sparsity)
        goal(f"at {sparsity:.0%}, a file of at most {bound:.0%} of the dense one: {share:.1%}", share <= bound)
    for sparsity, inputs, gain in faster:
        goal(f"at {sparsity:.0%}, {inputs} at once, sparse_csr faster than dense: {gain:.1f} times", gain > 1)


if __name__ == "__main__":
    run(Arguments, main)
