"""The order of samples: which samples each batch holds. This is policy alone; nothing is read.

The chunks of all stores, end to end, are the sample sequence. An epoch rotates the sequence by a random offset and cuts
it into *streams* of equal length. Each stream fills its own columns of every batch, so every batch has samples from the
whole sequence. Within a stream the chunks are permuted and grouped into *shuffle buffers* of a few chunks, and the
samples of a shuffle buffer are permuted. All of it is a function of (seed, epoch). Therefore any batch is found without
going through earlier ones, each of several processes reads only its own streams, and the shuffle buffers bound the
memory.

An epoch consists of full batches. The last partial batch is dropped; the dropped samples differ from epoch to epoch. If
there is less than one full batch, the epoch is one smaller batch.

One parameter in ten is held out: a hash of the group's number and the seed picks one of each ten in a row. The split is
therefore the same for every run, and the number of samples in a range is known without hashing the range.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from autosparse import seeds
from autosparse.config import Config
from autosparse.errors import UserError, unknown

Part = Literal["train", "held-out", "all"]
_GROUP = 10  # parameters, of which one is held out


def part_indices(start: int, stop: int, seed: int, part: Part) -> NDArray[np.int64]:
    """Return the flat indices start..stop that belong to a part of the split, ascending, counted from `start`."""
    if part not in get_args(Part):
        raise unknown("part", part, get_args(Part))
    if part == "all":
        return np.arange(stop - start)
    groups = np.arange(start // _GROUP, -(-stop // _GROUP), dtype=np.uint64)
    held = (groups * np.uint64(_GROUP) + _hash(groups, seed) % np.uint64(_GROUP)).astype(np.int64) - start
    held = held[(held >= 0) & (held < stop - start)]
    if part == "held-out":
        return held
    others = np.ones(stop - start, np.bool_)
    others[held] = False
    return np.flatnonzero(others)


def part_size(start: int, stop: int, seed: int, part: Part) -> int:
    """Return how many of the flat indices start..stop belong to a part of the split."""
    if part == "all":
        return stop - start
    first = min(-(-start // _GROUP) * _GROUP, stop)
    last = max(stop // _GROUP * _GROUP, first)
    ends = (start, first), (last, stop)  # partial groups
    held = (last - first) // _GROUP + sum(len(part_indices(*end, seed, "held-out")) for end in ends)
    return held if part == "held-out" else stop - start - held


class Resumable(ABC):
    """Base of batches whose order is a function of `identity()`, the epoch and the number of the batch."""

    _epoch = _batch = 0  # position of the next batch

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what defines the order, as JSON values."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the iteration, and what defines the order."""
        return {"epoch": self._epoch, "batch": self._batch, **self.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Seek to a position, saved by any number of processes; raise `UserError` if it is of another order."""
        for key, value in self.identity().items():
            if state.get(key) != value:
                raise UserError(f"the saved position has other {key}: {state.get(key)}, not {value}")
        self._epoch, self._batch = state["epoch"], state["batch"]


@dataclass(frozen=True)
class Chunk:
    """A chunk of a store, or the slice of its samples that belongs to one stream."""

    store: int
    start: int  # first flat index
    stop: int  # flat index after the last
    copy: int  # number of earlier copies, if the store has a weight above 1
    samples: int  # number of samples in the chunk
    skip: int  # number of samples before the slice
    take: int  # number of samples in the slice


@dataclass(frozen=True)
class ShuffleBuffer:
    """Chunks whose samples are permuted together."""

    stream: int
    number: int  # number of the shuffle buffer in its stream
    start: int  # position of its first sample in the stream
    size: int  # number of samples
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Order(Config):
    """The order of one epoch.

    The weights are how many times each store's samples occur in an epoch; a fraction is drawn anew in every epoch.
    """

    store_sizes: tuple[int, ...]  # number of parameters of each store
    chunk_sizes: tuple[int, ...]  # number of parameters per chunk of each store
    batch_size: int  # number of samples per global batch
    seed: int = 0
    epoch: int = 0
    part: Part = "train"
    streams: int = 48  # at most; a smaller batch has fewer
    chunks_per_buffer: int = 1
    weights: tuple[float, ...] | None = None

    @cached_property
    def sequence(self) -> list[Chunk]:
        """All chunks, store after store."""
        chunks = []
        for k, (size, width) in enumerate(zip(self.store_sizes, self.chunk_sizes, strict=True)):
            weight = self.weights[k] if self.weights else 1.0
            for copy in range(int(np.ceil(weight))):
                fraction = min(1.0, weight - copy)
                for start in range(0, size, width):
                    stop = min(start + width, size)
                    n = int(part_size(start, stop, self.seed, self.part) * fraction)
                    chunks.append(Chunk(k, start, stop, copy, n, 0, n))
        return chunks

    def __len__(self) -> int:
        """Return the number of samples in the sequence."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def batches(self) -> int:
        """Number of batches in the epoch."""
        return len(self) // self.effective_batch_size

    @cached_property
    def effective_batch_size(self) -> int:
        """The batch size or, if there are fewer samples, as many as there are (a multiple of the streams)."""
        if len(self) >= self.batch_size:
            return self.batch_size
        streams = min(self.streams, self.batch_size)
        if len(self) < streams:
            raise UserError(f"{len(self)} triples are too few for batches of {self.batch_size}")
        return len(self) // streams * streams

    @property
    def stream_count(self) -> int:
        """Number of streams."""
        return min(self.streams, self.effective_batch_size)

    def columns(self, stream: int) -> slice:
        """Return the columns of every batch that a stream fills."""
        size, count = self.effective_batch_size, self.stream_count
        return slice(size * stream // count, size * (stream + 1) // count)

    def buffers(self, stream: int) -> list[ShuffleBuffer]:
        """Return the shuffle buffers of a stream in order."""
        columns, total = self.columns(stream), len(self)
        first, last = (self._offset + total * k // self.effective_batch_size for k in (columns.start, columns.stop))
        chunks = self._cut(first, min(last, total)) + self._cut(max(first, total) - total, max(last, total) - total)
        permutation = self._generator(1, stream).permutation(len(chunks))
        buffers, start = list[ShuffleBuffer](), 0
        for number, k in enumerate(range(0, len(chunks), self.chunks_per_buffer)):
            chosen = tuple(chunks[j] for j in permutation[k : k + self.chunks_per_buffer])
            size = sum(chunk.take for chunk in chosen)
            buffers.append(ShuffleBuffer(stream, number, start, size, chosen))
            start += size
        return buffers

    def samples(self, chunk: Chunk) -> NDArray[np.int64]:
        """Return the samples of a chunk's slice, ascending, counted from the start of the chunk."""
        chosen = _chunk_indices(chunk.start, chunk.stop, self.seed, self.part)
        if chunk.samples < len(chosen):
            generator = self._generator(2, chunk.store, chunk.start, chunk.copy)
            chosen = np.sort(generator.choice(chosen, chunk.samples, replace=False, shuffle=False))
        return chosen[chunk.skip : chunk.skip + chunk.take]

    def permutation(self, buffer: ShuffleBuffer) -> NDArray[np.int64]:
        """Return the permutation of a shuffle buffer's samples, which are given chunk after chunk, ascending."""
        seed = seeds.stream("order of triples", self.seed, self.epoch, 3, buffer.stream, buffer.number)
        # NumPy would hold the interpreter's lock meanwhile.
        return torch.randperm(buffer.size, generator=torch.Generator().manual_seed(seed)).numpy()

    @cached_property
    def _offset(self) -> int:
        """Random offset by which the sequence is rotated."""
        return int(self._generator(0).integers(len(self)))

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([chunk.take for chunk in self.sequence])

    def _cut(self, start: int, stop: int) -> list[Chunk]:
        """Return the chunks between two positions of the sequence, the first and the last one sliced."""
        chunks = []
        for k in range(int(np.searchsorted(self._ends, start, side="right")), len(self.sequence)):
            chunk, end = self.sequence[k], int(self._ends[k])
            begin = end - chunk.take
            if begin >= stop:
                break
            skip = max(start - begin, 0)
            if take := min(stop, end) - begin - skip:
                chunks.append(replace(chunk, skip=skip, take=take))
        return chunks

    def _generator(self, *purpose: int) -> np.random.Generator:
        seed = seeds.stream("order of triples", self.seed, self.epoch, *purpose)
        return np.random.Generator(np.random.PCG64(seed))


@lru_cache(maxsize=4)  # neighboring streams share a chunk; in a small store all do
def _chunk_indices(start: int, stop: int, seed: int, part: Part) -> NDArray[np.int64]:
    """Return `part_indices`, read-only."""
    chosen = part_indices(start, stop, seed, part)
    chosen.flags.writeable = False
    return chosen


def _hash(x: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Return splitmix64 of x (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = x + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
