"""Which samples come when: policy alone, no reading.

Each store's index space is cut into blocks. An epoch permutes the blocks of all stores, cuts the permutation into
windows of a few blocks, and permutes the samples within each window; batches are cut from the windows laid end to end.
All of it is a function of (seed, epoch), so any batch can be found without going through those before it, and memory
is bounded by the window.

One parameter in ten is held out: of each ten in a row, the one that a hash of their number and of the seed picks, so
that the split is the same for every run and the number of samples in a range is known without hashing it.
"""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autosparse.seeds import stream

Part = Literal["train", "held-out", "all"]
STRIDE = 10


def held_out(start: int, stop: int, seed: int) -> NDArray[np.bool_]:
    """Which of the flat indices start..stop are held out."""
    index = np.arange(start, stop, dtype=np.uint64)
    return index % STRIDE == _hash(index // STRIDE, seed) % STRIDE


def count(start: int, stop: int, seed: int, part: Part) -> int:
    """How many of the flat indices start..stop belong to a part of the split."""
    if part == "all":
        return stop - start
    first, last = -(-start // STRIDE) * STRIDE, stop // STRIDE * STRIDE
    if first >= last:
        n = int(held_out(start, stop, seed).sum())
    else:
        n = (last - first) // STRIDE
        n += int(held_out(start, first, seed).sum()) + int(held_out(last, stop, seed).sum())
    return n if part == "held-out" else stop - start - n


@dataclass(frozen=True)
class Block:
    """A range of one store's flat indices."""

    store: int
    start: int
    stop: int


@dataclass(frozen=True)
class Window:
    """Blocks whose samples are mixed, and where the window starts among the epoch's samples."""

    number: int
    start: int
    size: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Order:
    """The order of one epoch.

    Attributes:
        sizes: parameters in each store.
        seed: of the permutations and the split.
        epoch: counted from 0; every epoch has an order of its own.
        part: of the split.
        block: parameters in a block.
        mix: blocks in a window.
    """

    sizes: tuple[int, ...]
    seed: int
    epoch: int
    part: Part = "train"
    block: int = 1 << 18
    mix: int = 8

    @cached_property
    def windows(self) -> list[Window]:
        """The windows in the order in which they come."""
        blocks = [
            Block(k, start, min(start + self.block, size))
            for k, size in enumerate(self.sizes)
            for start in range(0, size, self.block)
        ]
        order = self._generator(0).permutation(len(blocks))
        windows, start = [], 0
        for number, first in enumerate(range(0, len(blocks), self.mix)):
            chosen = tuple(blocks[k] for k in order[first : first + self.mix])
            size = sum(count(b.start, b.stop, self.seed, self.part) for b in chosen)
            windows.append(Window(number, start, size, chosen))
            start += size
        return windows

    def __len__(self) -> int:
        """Samples in the epoch."""
        return self.windows[-1].start + self.windows[-1].size if self.windows else 0

    def permutation(self, window: Window) -> NDArray[np.int64]:
        """The order of the samples within a window, which lie block after block, index after index, before it."""
        return self._generator(1, window.number).permutation(window.size)

    def find(self, position: int) -> int:
        """The number of the window that holds the epoch's sample at `position`."""
        return int(np.searchsorted([w.start + w.size for w in self.windows], position, side="right"))

    def _generator(self, *purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(stream("order of triples", self.seed, self.epoch, *purpose)))


def _hash(x: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = x + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def sizes_of(stores: Sequence[Sized]) -> tuple[int, ...]:
    """Parameters in each store."""
    return tuple(len(store) for store in stores)
