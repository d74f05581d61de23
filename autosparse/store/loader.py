"""Batches of triples from stores that need not fit into memory, in the order that `order` defines."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autosparse import seeds
from autosparse.errors import UserError
from autosparse.sizes import format_size, parse_size
from autosparse.store.order import Chunk, Order, Part, Resumable, ShuffleBuffer, part_indices, part_size
from autosparse.store.reader import TripleStore
from autosparse.store.schema import survival_dtype

# As many as the memory allows: for the same memory, more streams mix better than larger shuffle buffers
# (benchmarks/mixing.py). 1, 2, 3, 4, 6, 8, 12, 16, 24, 32 or 48 processes divide the first two evenly.
_STREAMS = (192, 96, 48, 24, 12, 6, 3, 1)
_LAID_OUT = 1 << 20  # samples laid out as batches at once, at most: more is not faster
_LAID_OUT_MEMORY = 64 * 16  # bytes of memory per sample laid out: a 64th of the memory, 16 bytes per sample

Columns = dict[str, NDArray[Any]]  # theta, grad, survival and store of some samples


@dataclass(frozen=True)
class Triples:
    """Samples of one or several stores, tensors of one length.

    Survival and store number are small unsigned integers, which PyTorch does not take as indices: use `.long()`.

    Attributes:
        theta: initial weights, float32.
        grad: gradients at the initial weights, float32.
        survival: number of masks that keep the parameter, 0..N of its store, in the narrowest unsigned type.
        store: number of the store, in the narrowest unsigned type.

    Examples:
        >>> from autosparse.store import TripleStore, sample
        >>> triples = sample(TripleStore.open("runs/irp/NAME"), 100, seed=0)
        >>> triples.survival.long().float().mean().shape
        torch.Size([])
    """

    theta: Tensor
    grad: Tensor
    survival: Tensor
    store: Tensor

    def __len__(self) -> int:
        return len(self.theta)

    def __getitem__(self, index: Any) -> "Triples":
        return Triples(self.theta[index], self.grad[index], self.survival[index], self.store[index])


@dataclass
class Counters:
    """The work of a `TripleLoader` in this process.

    Attributes:
        samples: number of samples returned.
        bytes: number of bytes read from the stores.
        waited: seconds in which the loader waited for data.
        seconds: total time, without that of the consumer.
    """

    samples: int = 0
    bytes: int = 0
    waited: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        seconds = max(self.seconds, 1e-9)
        return (
            f"{self.samples / seconds:,.0f} triples/s, {format_size(self.bytes)} read, "
            f"{self.waited / seconds:.0%} waiting for data"
        )


class TripleLoader(Resumable):
    """Shuffled batches of triples, epoch after epoch, the same for any number of processes and threads.

    Iteration yields the rest of the current epoch and then moves on to the next. `autosparse.store.order` defines the
    order and which samples an epoch drops. The position is two integers; `load_state_dict` seeks.

    Args:
        stores: stores that hold the triples.
        batch_size: number of triples per global batch, over all processes. An epoch drops its last, partial batch; if
            there is less than one batch, the epoch is one smaller batch.
        seed: seed of the order and the split.
        rank: number of this process; it reads only its own part of every global batch.
        world_size: number of processes.
        part: `train` (nine tenths), `held-out` (one tenth, drawn across all layers) or `all`.
        memory: memory for mixing, over all processes, such as `512MB`. More mixes better; the order depends on it.
        threads: number of threads that read and permute ahead; with 0, one thread reads when a batch is requested.
        weights: how many times each store occurs in an epoch, see `autosparse.store.order.Order`. Default: once.
        device: device of the batches; a GPU receives them through pinned memory while it computes.

    Attributes:
        counters: number of triples and bytes read, and the time it took.

    Raises:
        UserError: no list of open stores, or a batch size, memory, weights or number of processes that is not possible.

    Examples:
        >>> from autosparse.store import TripleLoader, TripleStore
        >>> loader = TripleLoader([TripleStore.open("runs/irp/NAME")], 4096, seed=0)
        >>> next(iter(loader)).theta.shape
        torch.Size([4096])
    """

    def __init__(
        self,
        stores: Sequence[TripleStore],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        part: Part = "train",
        *,
        memory: str = "512MB",
        threads: int = 2,
        weights: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if not isinstance(stores, Sequence) or not all(isinstance(store, TripleStore) for store in stores):
            raise UserError("a loader takes a list of open stores: TripleLoader([TripleStore.open(path)], batch_size)")
        if not stores:
            raise UserError("no triple stores were given")
        if batch_size < 1 or batch_size % world_size:
            raise UserError(f"a batch of {batch_size} cannot be divided among {world_size} processes")
        self.stores, self.counters, self._memory = list(stores), Counters(), memory
        self._rank, self._world_size, self._threads = rank, world_size, threads
        self._laid_out = min(_LAID_OUT, parse_size(memory) // _LAID_OUT_MEMORY)
        self._device = torch.device(device)
        survival = max((survival_dtype(store.iterations) for store in stores), key=lambda dtype: dtype.itemsize)
        self._dtypes = {"theta": np.dtype(np.float32), "grad": np.dtype(np.float32), "survival": survival}
        if len(stores) > 1:
            self._dtypes["store"] = np.min_scalar_type(len(stores) - 1)
        bytes_per_sample = sum(dtype.itemsize for dtype in self._dtypes.values())
        sizes, chunks = tuple(map(len, stores)), tuple(store.grid.chunk for store in stores)
        streams, chunks_per_buffer = plan(memory, max(chunks), bytes_per_sample)
        repeats = tuple(weights) if weights else None
        self._order = Order(sizes, chunks, batch_size, seed, 0, part, streams, chunks_per_buffer, repeats)
        if self._order.stream_count % world_size:
            most = _STREAMS[0]
            size = format_size(_needed(most, max(chunks), bytes_per_sample))
            advice = "another number of processes" if most % world_size else f"--memory {size} for {most} streams"
            raise UserError(
                f"{self._order.stream_count} streams cannot be divided among {world_size} processes; use {advice}"
            )
        # Stores that fit into memory are read once, others again in every epoch.
        self._fits = sum(map(len, stores)) * bytes_per_sample * world_size <= parse_size(memory) // 2
        self._cache: dict[tuple[int, int], Columns] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._order.batches

    def __iter__(self) -> Iterator[Triples]:
        order = self.order(self._epoch)
        start = time.perf_counter()
        pool = ThreadPoolExecutor(max(self._threads, 1), thread_name_prefix="triples")
        try:
            mine = order.stream_count // self._world_size
            streams = [
                _Stream(order, number, lambda buffer: pool.submit(self._read, order, buffer), self._threads > 0)
                for number in range(self._rank * mine, (self._rank + 1) * mine)
            ]
            rows = max(1, self._laid_out // order.effective_batch_size)
            for first in range(self._batch, len(self), rows):
                batches = self._lay_out(streams, first, min(first + rows, len(self)))
                for row in range(len(batches)):
                    self._batch += 1  # A state that the consumer takes counts this batch as done.
                    self.counters.samples += batches.theta.shape[1]
                    self.counters.seconds += time.perf_counter() - start
                    start = time.perf_counter()
                    yield batches[row]
        finally:
            pool.shutdown(cancel_futures=True)
        self._epoch, self._batch = self._epoch + 1, 0

    def order(self, epoch: int) -> Order:
        """Return the order of an epoch."""
        return replace(self._order, epoch=epoch)

    def identity(self) -> dict[str, Any]:
        """Return what defines the order."""
        order = self._order
        return {
            "stores": [store.fingerprint for store in self.stores],
            "seed": order.seed,
            "batch_size": order.batch_size,
            "part": order.part,
            "weights": list(order.weights) if order.weights else None,
            "memory": self._memory,
        }

    def _lay_out(self, streams: list["_Stream"], first: int, last: int) -> Triples:
        """Return the batches first..last one below the other, tensors (last - first, B)."""
        base = streams[0].columns.start
        shape = (last - first, streams[-1].columns.stop - base)
        pinned = self._device.type == "cuda"
        batches = {
            name: torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=pinned)
            for name, dtype in self._dtypes.items()
        }
        for stream in streams:  # Current buffers are read before the next ones.
            stream.prefetch(first * stream.width)
        for stream in streams:
            waiting = time.perf_counter()
            parts = stream.take(first * stream.width, last * stream.width)
            self.counters.waited += time.perf_counter() - waiting
            columns = slice(stream.columns.start - base, stream.columns.stop - base)
            for name, target in batches.items():
                values = parts[0][name] if len(parts) == 1 else np.concatenate([part[name] for part in parts])
                target[:, columns] = torch.from_numpy(values).view(-1, stream.width)
        on_device = {name: values.to(self._device, non_blocking=True) for name, values in batches.items()}
        if len(self.stores) == 1:
            on_device["store"] = torch.zeros((), dtype=torch.uint8, device=self._device).expand(shape)
        return Triples(**on_device)

    def _read(self, order: Order, buffer: ShuffleBuffer) -> Columns:
        """Return the samples of a shuffle buffer in their order."""
        parts, chosen, start = list[Columns](), list[NDArray[np.int64]](), 0
        for chunk in buffer.chunks:
            samples = order.samples(chunk)
            first, last = int(samples[0]), int(samples[-1]) + 1
            parts.append({name: values[first:last] for name, values in self._chunk(chunk).items()})
            chosen.append(samples + (start - first))
            start += last - first
        index = np.concatenate(chosen)[order.permutation(buffer)]
        return {name: np.concatenate([columns[name] for columns in parts]).take(index) for name in self._dtypes}

    def _chunk(self, chunk: Chunk) -> Columns:
        """Return all values of a chunk."""
        key = chunk.store, chunk.start
        if self._fits and key in self._cache:
            return self._cache[key]
        store, index = self.stores[chunk.store], slice(chunk.start, chunk.stop)
        columns: Columns = {"theta": store.theta(index), "grad": store.grad(index), "survival": store.survival(index)}
        with self._lock:
            self.counters.bytes += sum(values.nbytes for values in columns.values())
        if len(self.stores) > 1:
            columns["store"] = np.full(chunk.stop - chunk.start, chunk.store, self._dtypes["store"])
        if self._fits:
            self._cache[key] = columns
        return columns


class _Stream:
    """The samples of one stream; the next shuffle buffer is read while the current one is used."""

    def __init__(
        self, order: Order, number: int, submit: Callable[[ShuffleBuffer], Future[Columns]], ahead: bool
    ) -> None:
        self.columns = order.columns(number)
        self.width = self.columns.stop - self.columns.start
        self._submit, self._ahead = submit, ahead
        self._buffers = order.buffers(number)
        self._ends = np.cumsum([buffer.size for buffer in self._buffers])
        self._pending: dict[int, Future[Columns]] = {}

    def prefetch(self, position: int) -> None:
        """Start to read the shuffle buffer that holds the sample at a position."""
        self._request(self._number(position))

    def take(self, start: int, stop: int) -> list[Columns]:
        """Return the samples start..stop of the stream, one part per shuffle buffer."""
        parts, number = list[Columns](), self._number(start)
        while start < stop:
            self._request(number)
            if self._ahead:
                self._request(number + 1)
            for passed in [k for k in self._pending if k < number]:
                del self._pending[passed]
            buffer, columns = self._buffers[number], self._pending[number].result()
            end = min(stop, buffer.start + buffer.size)
            parts.append({name: values[start - buffer.start : end - buffer.start] for name, values in columns.items()})
            start, number = end, number + 1
        return parts

    def _number(self, position: int) -> int:
        return int(np.searchsorted(self._ends, position, side="right"))

    def _request(self, number: int) -> None:
        if number not in self._pending and number < len(self._buffers):
            self._pending[number] = self._submit(self._buffers[number])


def plan(memory: str, chunk: int, bytes_per_sample: int) -> tuple[int, int]:
    """Return how many streams, and how many chunks per shuffle buffer, fit into memory."""
    size = parse_size(memory)
    streams = next((n for n in _STREAMS if _needed(n, chunk, bytes_per_sample) <= size), 0)
    if not streams:
        least = format_size(_needed(1, chunk, bytes_per_sample))
        raise UserError(f"memory of {memory} is less than one chunk of triples needs; give at least {least}")
    return streams, size // _needed(streams, chunk, bytes_per_sample)


def _needed(streams: int, chunk: int, bytes_per_sample: int) -> int:
    """Return the bytes of buffers of one chunk: two per stream, the current and the next, and some being permuted."""
    return (2 * streams + 4) * chunk * bytes_per_sample


def sample(store: TripleStore, limit: int, seed: int, part: Part = "all") -> Triples:
    """Draw triples evenly from a whole store, block by block, in the order of their indices.

    Args:
        store: store to draw from.
        limit: number of triples, at most.
        seed: seed of the draws and the split.
        part: part of the split.

    Examples:
        >>> from autosparse.store import TripleStore, sample
        >>> len(sample(TripleStore.open("runs/irp/NAME"), 100, seed=0).theta) <= 100
        True
    """
    return samples(store, (limit,), seed, part)[0]


def samples(store: TripleStore, limits: Sequence[int], seed: int, part: Part = "all") -> list[Triples]:
    """Return what `sample` draws for each limit, in one pass over the store."""
    total = part_size(0, len(store), seed, part)
    generators = [np.random.Generator(np.random.PCG64(seeds.stream("sample of triples", seed))) for _ in limits]
    draws: list[list[Columns]] = [[] for _ in limits]
    for block, columns in store.scan("theta", "grad", "survival"):
        candidates = part_indices(block.start, block.stop, seed, part)
        for limit, generator, parts in zip(limits, generators, draws, strict=True):
            chosen = candidates
            if total > limit:
                n = len(candidates) * limit // total
                chosen = np.sort(generator.choice(candidates, n, replace=False, shuffle=False))
            parts.append({name: values[chosen] for name, values in columns.items()})
    joined = [
        {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]} for parts in draws
    ]
    return [Triples(**each, store=torch.zeros(len(each["theta"]), dtype=torch.uint8)) for each in joined]
