"""Which samples come when: policy alone, no reading.

All stores' parameters lie on one line, cut into chunks. An epoch turns the line by a random offset and cuts it into
*lanes* of equal shares, each of which gives its columns of every batch: so every batch holds something of everywhere.
Within a lane the chunks are permuted and cut into windows of a few chunks, and the samples of a window are permuted.
All of it is a function of (seed, epoch), so any batch can be found without going through those before it; each of
several processes reads its own lanes; and memory is bounded by a window a lane.

An epoch has as many batches as there are whole ones. What is left over, less than one batch, is left out; which
samples these are changes from epoch to epoch. Only where there is less than one batch in all, that is the batch.

One parameter in ten is held out: of each ten in a row, the one that a hash of their number and of the seed picks, so
that the split is the same for every run and the number of samples in a range is known without hashing it.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from autosparse.config import Config
from autosparse.errors import UserError, unknown
from autosparse.seeds import stream

Part = Literal["train", "held-out", "all"]
STRIDE = 10


def part_indices(start: int, stop: int, seed: int, part: Part) -> NDArray[np.int64]:
    """Return the flat indices start..stop that belong to a part of the split, ascending, counted from `start`.

    Raises:
        UserError: an unknown part.
    """
    if part not in get_args(Part):
        raise unknown("part", part, get_args(Part))
    if part == "all":
        return np.arange(stop - start)
    groups = np.arange(start // STRIDE, -(-stop // STRIDE), dtype=np.uint64)
    held = (groups * np.uint64(STRIDE) + _hash(groups, seed) % np.uint64(STRIDE)).astype(np.int64) - start
    held = held[(held >= 0) & (held < stop - start)]
    if part == "held-out":
        return held
    others = np.ones(stop - start, np.bool_)
    others[held] = False
    return np.flatnonzero(others)


def part_size(start: int, stop: int, seed: int, part: Part) -> int:
    """How many of the flat indices start..stop belong to a part of the split."""
    if part == "all":
        return stop - start
    first, last = -(-start // STRIDE) * STRIDE, stop // STRIDE * STRIDE
    if first >= last:
        n = len(part_indices(start, stop, seed, "held-out"))
    else:
        n = (last - first) // STRIDE
        n += len(part_indices(start, first, seed, "held-out")) + len(part_indices(last, stop, seed, "held-out"))
    return n if part == "held-out" else stop - start - n


@dataclass(frozen=True)
class Chunk:
    """A chunk of a store, or what a lane has of it: which of the part's samples, where not all of them.

    Attributes:
        store: number of the store.
        start, stop: flat indices.
        copy: how many times the chunk came before, in a store with a weight above 1.
        samples: how many there are, of which `skip` are passed over and `take` taken.
    """

    store: int
    start: int
    stop: int
    copy: int
    samples: int
    skip: int
    take: int


@dataclass(frozen=True)
class Window:
    """Chunks whose samples are mixed, and where the window starts among the samples of its lane."""

    lane: int
    number: int
    start: int
    size: int
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Order(Config):
    """The order of one epoch.

    Attributes:
        sizes: parameters in each store.
        chunks: parameters in a chunk of each store.
        batch_size: of the global batch.
        seed: of the permutations and the split.
        epoch: counted from 0; every epoch has an order of its own.
        part: of the split.
        lanes: into how many the line is cut, at most; fewer if a batch is smaller.
        mix: chunks in a window.
        weights: how often each store's samples come in an epoch, 1 once; with a fraction, a share of them redrawn
            in every epoch. None for once each.
    """

    sizes: tuple[int, ...]
    chunks: tuple[int, ...]
    batch_size: int
    seed: int = 0
    epoch: int = 0
    part: Part = "train"
    lanes: int = 48
    mix: int = 1
    weights: tuple[float, ...] | None = None

    @cached_property
    def line(self) -> list[Chunk]:
        """All chunks, store after store."""
        found = []
        for k, (size, width) in enumerate(zip(self.sizes, self.chunks, strict=True)):
            weight = self.weights[k] if self.weights else 1.0
            for copy in range(int(np.ceil(weight))):
                share = min(1.0, weight - copy)
                for start in range(0, size, width):
                    stop = min(start + width, size)
                    n = int(part_size(start, stop, self.seed, self.part) * share)
                    found.append(Chunk(k, start, stop, copy, n, 0, n))
        return found

    def __len__(self) -> int:
        """Samples on the line."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def batches(self) -> int:
        """Batches in the epoch."""
        return len(self) // self.size

    @cached_property
    def size(self) -> int:
        """Samples in a batch: the batch size, or all there are where that is less (a multiple of the lanes)."""
        if len(self) >= self.batch_size:
            return self.batch_size
        lanes = min(self.lanes, self.batch_size)
        if len(self) < lanes:
            raise UserError(f"{len(self)} triples are too few for batches of {self.batch_size}")
        return len(self) // lanes * lanes

    @property
    def number_of_lanes(self) -> int:
        """How many there are."""
        return min(self.lanes, self.size)

    def columns(self, lane: int) -> slice:
        """The part of every batch that a lane gives."""
        return slice(self.size * lane // self.number_of_lanes, self.size * (lane + 1) // self.number_of_lanes)

    def windows(self, lane: int) -> list[Window]:
        """The windows of a lane in the order in which they come."""
        columns, total = self.columns(lane), len(self)
        first, last = (self._offset + total * column // self.size for column in (columns.start, columns.stop))
        chunks = self._cut(first, min(last, total)) + self._cut(max(first, total) - total, max(last, total) - total)
        order = self._generator(1, lane).permutation(len(chunks))
        found, start = list[Window](), 0
        for number, k in enumerate(range(0, len(chunks), self.mix)):
            chosen = tuple(chunks[j] for j in order[k : k + self.mix])
            size = sum(chunk.take for chunk in chosen)
            found.append(Window(lane, number, start, size, chosen))
            start += size
        return found

    def samples(self, chunk: Chunk) -> NDArray[np.int64]:
        """The samples of a chunk, ascending, counted from its start."""
        chosen = _of_chunk(chunk.start, chunk.stop, self.seed, self.part)
        if chunk.samples < len(chosen):
            generator = self._generator(2, chunk.store, chunk.start, chunk.copy)
            chosen = np.sort(generator.choice(chosen, chunk.samples, replace=False, shuffle=False))
        return chosen[chunk.skip : chunk.skip + chunk.take]

    def permutation(self, window: Window) -> NDArray[np.int64]:
        """The order of the samples within a window, which lie chunk after chunk, index after index, before it."""
        seed = stream("order of triples", self.seed, self.epoch, 3, window.lane, window.number)
        # not NumPy's, which holds the interpreter's lock while it works
        return torch.randperm(window.size, generator=torch.Generator().manual_seed(seed)).numpy()

    def indices(self, batch: int) -> NDArray[np.int64]:
        """Store and flat index of every sample of a batch, (2, B): for those who check what `TripleLoader` reads."""
        parts = []
        for lane in range(self.number_of_lanes):
            columns = self.columns(lane)
            width = columns.stop - columns.start
            start, stop = batch * width, (batch + 1) * width
            for window in self.windows(lane):
                if window.start < stop and start < window.start + window.size:
                    chunks = [(np.full(b.take, b.store), b.start + self.samples(b)) for b in window.chunks]
                    both = np.concatenate(chunks, axis=1)[:, self.permutation(window)]
                    parts.append(both[:, max(start - window.start, 0) : stop - window.start])
        return np.concatenate(parts, axis=1)

    @cached_property
    def _offset(self) -> int:
        """By how much the line is turned."""
        return int(self._generator(0).integers(len(self)))

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([chunk.take for chunk in self.line])

    def _cut(self, start: int, stop: int) -> list[Chunk]:
        """The chunks of a part of the line, the first and the last cut where it starts and stops."""
        found = []
        for k in range(int(np.searchsorted(self._ends, start, side="right")), len(self.line)):
            chunk, end = self.line[k], int(self._ends[k])
            begin = end - chunk.take
            if begin >= stop:
                break
            skip = max(start - begin, 0)
            if take := min(stop, end) - begin - skip:
                found.append(replace(chunk, skip=skip, take=take))
        return found

    def _generator(self, *purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(stream("order of triples", self.seed, self.epoch, *purpose)))


@lru_cache(maxsize=4)  # neighbouring lanes share a chunk, all of them where a store is small
def _of_chunk(start: int, stop: int, seed: int, part: Part) -> NDArray[np.int64]:
    """`part_indices`, read-only."""
    chosen = part_indices(start, stop, seed, part)
    chosen.flags.writeable = False
    return chosen


def _hash(x: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = x + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
