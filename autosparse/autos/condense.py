"""Triples condensed into weighted cells, so that what a fit costs does not grow with their number.

AutoS sees a parameter as a point in very few dimensions, and the mean squared error of the points of a small cell is
that of their mean, times their number, plus what no network can change. So one pass over the triples, adding up inputs
and labels by the cells of a grid, leaves all that a fit needs; as the cells shrink, both have the same minimiser.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from autosparse.store import TripleLoader, Triples, TripleStore
from autosparse.store.order import select

_SAMPLE = 3 << 16  # triples that the grid is laid by
_SLAB = 1 << 18  # triples that are encoded at once


@dataclass(frozen=True)
class Cells:
    """The cells of a grid that hold triples, in the order of the grid, the last input running fastest.

    Attributes:
        inputs: mean encoded input of the triples in each, float32 (C, width).
        labels: their mean label, float32 (C,).
        counts: how many they are, each as often as its store's weight says, float64 (C,).
    """

    inputs: Tensor
    labels: Tensor
    counts: Tensor

    def __len__(self) -> int:
        return len(self.counts)


def condense(
    stores: Sequence[TripleStore],
    encode: Callable[[Triples], tuple[Tensor, Tensor]],
    limit: int,
    accelerator: Accelerator,
    *,
    seed: int = 0,
    memory: str = "512MB",
    weights: Sequence[float] | None = None,
    threads: int = 2,
) -> Cells:
    """The nine tenths of the triples that a fit may see, as cells; each process reads its part of them, once.

    The grid has as many cells along each input, between quantiles of a sample, so that it is fine where triples are.
    Memory does not depend on the number of triples.

    Args:
        stores: where the triples lie.
        encode: triples to inputs float32 (B, width) and labels float32 (B,), on the CPU.
        limit: cells at most, the empty ones among them.
        accelerator: of this process; all end with the same cells.
        seed: of the held-out tenth and the sample.
        memory, weights, threads: see `TripleLoader`, which gives the sample.

    Raises:
        UserError: see `TripleLoader`.
    """
    rank, world_size = accelerator.process_index, accelerator.num_processes
    sample = TripleLoader(
        stores,
        _SAMPLE // world_size * world_size,
        seed,
        rank,
        world_size,
        memory=memory,
        weights=weights or None,
        threads=threads,
    )
    seen = accelerator.gather(encode(next(iter(sample)))[0].to(accelerator.device)).cpu()
    axes = _axes(seen, int(limit ** (1 / seen.shape[1]) + 1e-9))
    sizes = [len(axis) + 1 for axis in axes]
    totals = torch.zeros(seen.shape[1] + 2, int(np.prod(sizes)), dtype=torch.float64)
    for triples in _train(stores, seed, rank, world_size, threads):
        inputs, labels = encode(triples)
        cell = torch.zeros(len(labels), dtype=torch.int64)
        for axis, size, column in zip(axes, sizes, inputs.unbind(1), strict=True):
            cell = cell * size + torch.bucketize(column.contiguous(), axis)
        weight = weights[int(triples.store[0])] if weights else 1.0
        for total, values in zip(totals, (*inputs.unbind(1), labels, torch.ones_like(labels)), strict=True):
            total += torch.bincount(cell, values.double(), len(total)) * weight
    totals = accelerator.reduce(totals.to(accelerator.device), "sum").cpu()
    counts = totals[-1]
    held = counts > 0
    means = (totals[:-1, held] / counts[held]).float()
    return Cells(means[:-1].T.contiguous(), means[-1], counts[held])


def _axes(sample: Tensor, size: int) -> list[Tensor]:
    """Boundaries between `size` cells along each input, or fewer where values come often; float32, ascending."""
    inner = np.arange(1, size) / size
    return [torch.from_numpy(np.unique(np.quantile(column, inner).astype(np.float32))) for column in sample.numpy().T]


def _train(stores: Sequence[TripleStore], seed: int, rank: int, world_size: int, threads: int) -> Iterator[Triples]:
    """This process's share of the triples that are not held out, some of one store at a time."""
    for number, store in enumerate(stores):
        mine = (rank - number) % world_size, world_size  # so that of many small stores each process has some
        for span, columns in store.scan("theta", "grad", "survival", threads=max(1, threads), share=mine):
            wanted = select(span.start, span.stop, seed, "train")
            for start in range(0, len(wanted), _SLAB):
                chosen = wanted[start : start + _SLAB]
                theta, grad, survival = (torch.from_numpy(values[chosen]) for values in columns.values())
                yield Triples(theta, grad, survival.long(), torch.full((len(chosen),), number))
