"""Batches of triples out of one or many stores that need not fit into memory. Which samples come when: `order`."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autosparse.errors import UserError
from autosparse.sizes import format_size, parse_size
from autosparse.store.lanes import LANES, Columns, Lane, needed, plan
from autosparse.store.order import Chunk, Order, Part, Window
from autosparse.store.position import Resumable
from autosparse.store.reader import TripleStore
from autosparse.store.schema import survival_dtype
from autosparse.store.triples import Triples

_LAID_OUT = 1 << 20  # samples that are laid out as batches at once, at most: more is no faster
_SHARE = 64 * 16  # a 64th of the memory at most, 16 bytes a sample


@dataclass
class Counters:
    """What a `TripleLoader` has done since it was made, in this process.

    Attributes:
        samples: given out.
        bytes: read from the stores, decoded.
        waited: seconds the consumer waited for data.
        seconds: from the first batch asked for to the last one given.
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

    Iterating gives the rest of the current epoch and then moves on to the next. See `autosparse.store.order` for
    the order and for which samples an epoch leaves out. The position is a few integers; `load_state_dict` seeks.

    Args:
        stores: where the triples lie.
        batch_size: of the global batch, over all processes.
        seed: of order and split.
        rank: of this process, which takes its part of every global batch, and reads that alone.
        world_size: number of processes.
        part: `train` (nine tenths), `held-out` (one tenth, drawn across all layers) or `all`.
        memory: for mixing, over all processes, such as `512MB`. More mixes better; the order depends on it.
        threads: that read and permute ahead; 0 to do so when a batch is asked for.
        weights: how often each store comes in an epoch, 1 once (see `order.Order`).
        device: where the batches go; to a GPU through pinned memory, while it computes.

    Attributes:
        counters: how fast it goes.

    Raises:
        UserError: no stores, or a batch, memory, weights or number of processes that is not possible.
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
        if not stores:
            raise UserError("no triple stores were given")
        if batch_size < 1 or batch_size % world_size:
            raise UserError(f"a batch of {batch_size} cannot be cut over {world_size} processes")
        if threads < 0:
            raise UserError(f"threads must be 0 or more, got {threads}")
        if weights is not None:
            _check_weights(weights, len(stores))
        self.stores, self.counters, self._memory = list(stores), Counters(), memory
        self._rank, self._world_size, self._threads = rank, world_size, threads
        self._laid_out = min(_LAID_OUT, parse_size(memory) // _SHARE)
        self._device = torch.device(device)
        self._number = np.min_scalar_type(len(stores) - 1)  # type of a store's number
        self._bytes_per_sample = 8 + max(survival_dtype(store.iterations).itemsize for store in stores)
        self._bytes_per_sample += self._number.itemsize if len(stores) > 1 else 0
        chunks = tuple(store.grid.chunk for store in stores)
        lanes, mix = plan(parse_size(memory), max(chunks), self._bytes_per_sample, memory)
        self._order = Order(
            tuple(len(store) for store in stores),
            chunks,
            batch_size,
            seed,
            0,
            part,
            lanes,
            mix,
            tuple(weights) if weights else None,
        )
        if world_size > len(self._order.line):
            raise UserError(f"{world_size} processes for {len(self._order.line)} chunks of triples; use fewer")
        if self._order.number_of_lanes % world_size:
            raise UserError(
                f"{self._order.number_of_lanes} lanes cannot be cut over {world_size} processes; {LANES[0]}, which "
                f"{format_size(needed(LANES[0], max(chunks), self._bytes_per_sample))} of memory allow, "
                f"{'can' if LANES[0] % world_size == 0 else 'cannot either: use another number of processes'}"
            )
        # stores that fit are read once; the rest is read again in every epoch
        self._kept: dict[tuple[int, int], Columns] | None = (
            {} if sum(map(len, stores)) * self._bytes_per_sample * world_size <= parse_size(memory) // 2 else None
        )
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._order.batches

    def __iter__(self) -> Iterator[Triples]:
        order = self.order(self._epoch)
        start = time.perf_counter()
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="triples") if self._threads else None
        try:
            lanes = [Lane(order, number, self._read, pool) for number in self._lanes(order)]
            rows = max(1, self._laid_out // order.size)
            for first in range(self._batch, len(self), rows):
                batches = self._lay_out(order, lanes, first, min(first + rows, len(self)))
                for row in range(len(batches.theta)):
                    self._batch += 1  # before the yield: a state taken by the consumer counts this batch as done
                    self.counters.samples += batches.theta.shape[1]
                    self.counters.seconds += time.perf_counter() - start
                    start = time.perf_counter()
                    yield batches[row]
        finally:
            if pool:
                pool.shutdown(cancel_futures=True)
        self._epoch, self._batch = self._epoch + 1, 0

    def order(self, epoch: int) -> Order:
        """The order of an epoch."""
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

    def _lanes(self, order: Order) -> range:
        """The lanes of this process."""
        mine = order.number_of_lanes // self._world_size
        return range(self._rank * mine, (self._rank + 1) * mine)

    def _lay_out(self, order: Order, lanes: list[Lane], first: int, last: int) -> Triples:
        """The batches first..last laid out one below the other, tensors (last - first, B)."""
        base = order.columns(lanes[0].number).start
        shape = (last - first, order.columns(lanes[-1].number).stop - base)
        pinned = self._device.type == "cuda"
        kinds = {"theta": torch.float32, "grad": torch.float32, "survival": torch.int64, "store": torch.int64}
        if len(self.stores) == 1:
            del kinds["store"]
        batches = {name: torch.empty(shape, dtype=kind, pin_memory=pinned) for name, kind in kinds.items()}
        for lane in lanes:  # all that is needed now before what is needed next
            lane.ask(first * _width(order.columns(lane.number)))
        for lane in lanes:
            columns = order.columns(lane.number)
            width = _width(columns)
            waiting = time.perf_counter()
            parts = lane.take(first * width, last * width)
            self.counters.waited += time.perf_counter() - waiting
            for name, target in batches.items():
                values = parts[0][name] if len(parts) == 1 else np.concatenate([part[name] for part in parts])
                target[:, columns.start - base : columns.stop - base] = torch.from_numpy(values).view(-1, width)
        on_device = {name: values.to(self._device, non_blocking=True) for name, values in batches.items()}
        if len(self.stores) == 1:
            on_device["store"] = torch.zeros((), dtype=torch.int64, device=self._device).expand(shape)
        return Triples(**on_device)

    def _read(self, order: Order, window: Window) -> Columns:
        """The samples of a window in their order."""
        raw, chosen, start = list[Columns](), list[NDArray[np.int64]](), 0
        for chunk in window.chunks:
            samples = order.samples(chunk)
            columns, first = self._chunk(chunk, samples)
            raw.append(columns)
            chosen.append(samples + (start - first))
            start += len(columns["theta"])
        index = np.concatenate(chosen)[order.permutation(window)]
        return {name: np.concatenate([columns[name] for columns in raw]).take(index) for name in raw[0]}

    def _chunk(self, chunk: Chunk, samples: NDArray[np.int64]) -> tuple[Columns, int]:
        """What of a chunk has to be read for some of its samples, and where in the chunk that starts."""
        first, last = int(samples[0]), int(samples[-1]) + 1
        if self._kept is None:
            return self._fetch(chunk.store, slice(chunk.start + first, chunk.start + last)), first
        key = chunk.store, chunk.start
        if key not in self._kept:
            self._kept[key] = self._fetch(chunk.store, slice(chunk.start, chunk.stop))
        return {name: values[first:last] for name, values in self._kept[key].items()}, first

    def _fetch(self, number: int, index: slice) -> Columns:
        store = self.stores[number]
        columns: Columns = {"theta": store.theta(index), "grad": store.grad(index), "survival": store.survival(index)}
        with self._lock:
            self.counters.bytes += sum(values.nbytes for values in columns.values())
        if len(self.stores) > 1:
            columns["store"] = np.full(index.stop - index.start, number, self._number)
        return columns


def _width(columns: slice) -> int:
    return int(columns.stop - columns.start)


def _check_weights(weights: Sequence[float], stores: int) -> None:
    if len(weights) != stores:
        raise UserError(f"{len(weights)} weights for {stores} stores; give one for each")
    if not all(0 < weight < np.inf for weight in weights):
        raise UserError(f"weights must be positive numbers, got {' '.join(map(str, weights))}")
