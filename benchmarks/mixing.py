"""How well do the batches mix, compared with those of a full shuffle?

A batch of a full shuffle has its share of every label, every layer and every region of the network, except for chance.
The numbers are those of `dispersion`: how far the batches' composition is from those shares, in units of that chance.
A full shuffle has 1, by definition; the last row draws one, to show what so few batches make of it. Chance shrinks as a
batch grows: the same departure from the shares counts 64 times as much in batches of 65,536 as in batches of 1,024.

What is measured is the policy (`autosparse.store.order`) alone; nothing is read but the labels. Without a store, the
layout is that of vgg19-4096 and the labels are made up: normal noise, whose mean depends on the layer and drifts from
one row of 4,096 weights to the next, cut into 12 classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autosparse import networks
from autosparse.command import run
from autosparse.pruning import Layout
from autosparse.store import TripleStore
from autosparse.store.loader import plan
from autosparse.store.order import Order
from benchmarks.common import heading, row, table

MEMORIES = ("64MB", "512MB", "2GB")
CHUNK = 1 << 18  # parameters, as in a store
_BYTES = 9  # of a sample
_BINS = 100  # of the position
# streams, chunks per shuffle buffer, chunk
SETTINGS = ((1, 1, CHUNK), (1, 80, CHUNK), (16, 5, CHUNK), (48, 1, CHUNK), (48, 4, CHUNK // 4))


@dataclass(frozen=True)
class Arguments:
    """Count what is in some batches of an epoch, for some settings of the order."""

    network: str = "vgg19-4096"
    """The network, where there is no store."""
    store: Path | None = None
    """A store, for its layout and labels."""
    batch_sizes: tuple[int, ...] = (1024, 65536)
    """Triples in a batch."""
    batches: int = 4
    """How many batches are looked at, evenly spread over the epoch."""


def batch_indices(order: Order, batch: int) -> NDArray[np.int64]:
    """Return store and flat index of every sample of a batch, int64 (2, B), as `TripleLoader` reads them."""
    parts = []
    for stream in range(order.stream_count):
        columns = order.columns(stream)
        width = columns.stop - columns.start
        start, stop = batch * width, (batch + 1) * width
        for buffer in order.buffers(stream):
            if buffer.start < stop and start < buffer.start + buffer.size:
                chunks = [(np.full(c.take, c.store), c.start + order.samples(c)) for c in buffer.chunks]
                permuted = np.concatenate(chunks, axis=1)[:, order.permutation(buffer)]
                parts.append(permuted[:, max(start - buffer.start, 0) : stop - buffer.start])
    return np.concatenate(parts, axis=1)


def shuffled_indices(order: Order, batch: int) -> NDArray[np.int64]:
    """Return what `batch_indices` does, of one permutation of a single store, cut into batches."""
    permutation = torch.randperm(order.store_sizes[0], generator=torch.Generator().manual_seed(0)).numpy()
    flat = permutation[batch * order.batch_size : (batch + 1) * order.batch_size]
    return np.stack([np.zeros_like(flat), flat])


def dispersion(
    order: Order,
    kind: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    batches: int = 16,
    indices: Callable[[Order, int], NDArray[np.int64]] = batch_indices,
) -> float:
    """How much more the batches of an epoch differ in composition than those of a full shuffle.

    Pearson's chi-square of a batch's counts against those expected, over its degrees of freedom, mean over some batches
    evenly spread: 1 for a full shuffle; more where batches are clumped, less where they are stratified.

    Args:
        order: of one store.
        kind: flat indices (B,) to numbers of classes (B,), such as layer, label or a bin of the position.
        batches: number of batches that are looked at.
        indices: store and flat index of every sample of a batch.
    """
    every = np.linspace(0, order.batches - 1, min(batches, order.batches)).astype(int)
    whole = np.bincount(kind(np.arange(order.store_sizes[0])))
    there = whole > 0
    expected = whole[there] / order.store_sizes[0] * order.effective_batch_size
    squares = []
    for batch in every:
        counts = np.bincount(kind(indices(order, int(batch))[1]), minlength=len(whole))[there]
        squares.append(((counts - expected) ** 2 / expected).sum() / (there.sum() - 1))
    return float(np.mean(squares))


def made_up(layout: Layout) -> NDArray[np.uint8]:
    """Labels 0..11 that depend on the layer and drift along the rows."""
    generator = np.random.Generator(np.random.PCG64(0))
    rows = generator.standard_normal(layout.size // 4096 + 1, np.float32) * 0.5
    labels = np.empty(layout.size, np.uint8)
    for layer in layout.layers:
        mean = 0.7 * generator.standard_normal()
        for start in range(layer.offset, layer.offset + layer.size, 1 << 24):
            span = slice(start, min(start + (1 << 24), layer.offset + layer.size))
            noise = generator.standard_normal(span.stop - span.start, np.float32)
            noise += mean + rows[np.arange(span.start, span.stop) // 4096]
            labels[span] = np.clip((noise + 3) * 2, 0, 11)
    return labels


def kinds_of(layout: Layout, labels: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The classes of every parameter that are counted."""
    layers = np.repeat(np.arange(len(layout.layers), dtype=np.uint16), [layer.size for layer in layout.layers])
    bins = np.repeat(np.arange(_BINS, dtype=np.uint8), np.diff(np.linspace(0, layout.size, _BINS + 1).astype(int)))
    return {"label": labels, "layer": layers, "position": bins}


def main(a: Arguments) -> None:
    """Count and print."""
    heading()
    if a.store:
        store = TripleStore.open(a.store)
        layout, labels = store.layout, store.survival()
    else:
        with torch.device("meta"):
            layout = Layout.of(networks.build(a.network, (3, 32, 32), 10))
        labels = made_up(layout)
    kinds = kinds_of(layout, labels)
    settings = [(f"--memory {text}", *plan(text, CHUNK, _BYTES), CHUNK) for text in MEMORIES]
    settings += [("", *setting) for setting in SETTINGS]
    print(f"\n{a.store or a.network}: {layout.size:,} triples; {a.batches} batches of an epoch\n")
    columns = [f"{name}, {size:,}" for size in a.batch_sizes for name in kinds]
    table("setting", "streams", "chunks per buffer", "chunk", "triples mixed", *columns)
    for name, streams, per_buffer, chunk in settings:
        orders = [
            Order((layout.size,), (chunk,), size, streams=streams, chunks_per_buffer=per_buffer)
            for size in a.batch_sizes
        ]
        found = _dispersions(orders, kinds, a.batches, batch_indices)
        mixed = min(streams * per_buffer * chunk, layout.size)
        row(name, str(streams), str(per_buffer), f"{chunk:,}", f"{mixed:,}", *(f"{value:.2f}" for value in found))
    orders = [Order((layout.size,), (layout.size,), size, part="all") for size in a.batch_sizes]
    shuffled = _dispersions(orders, kinds, a.batches, shuffled_indices)
    row("full shuffle", "", "", "", f"{layout.size:,}", *(f"{value:.2f}" for value in shuffled))


def _dispersions(
    orders: list[Order],
    kinds: dict[str, NDArray[Any]],
    batches: int,
    indices: Callable[[Order, int], NDArray[np.int64]],
) -> list[float]:
    """Return the dispersion of every order by every kind of class."""
    indices = lru_cache(batches * len(orders))(indices)  # A batch is drawn once for all kinds.

    def look_up(classes: NDArray[Any], index: NDArray[np.int64]) -> NDArray[Any]:
        return classes if len(index) == len(classes) else classes[index]

    return [dispersion(order, partial(look_up, kinds[name]), batches, indices) for order in orders for name in kinds]


if __name__ == "__main__":
    run(Arguments, main)
