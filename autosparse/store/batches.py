"""Batches of triples out of one or many stores that need not fit into memory."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autosparse.errors import UserError
from autosparse.seeds import stream
from autosparse.store.order import Order, Part, Window, count, held_out, sizes_of
from autosparse.store.reader import TripleStore


@dataclass(frozen=True)
class Triples:
    """Samples of one or several stores, tensors of one length.

    Attributes:
        theta, grad: float32, as stored.
        survival: int64, 0..N of its store.
        store: int64, the number of the store that each comes from.
    """

    theta: Tensor
    grad: Tensor
    survival: Tensor
    store: Tensor

    def __len__(self) -> int:
        return len(self.theta)

    def __getitem__(self, index: Any) -> "Triples":
        return Triples(self.theta[index], self.grad[index], self.survival[index], self.store[index])

    @staticmethod
    def cat(parts: Sequence["Triples"]) -> "Triples":
        """The parts end to end."""
        fields = ("theta", "grad", "survival", "store")
        return Triples(*(torch.cat([getattr(part, field) for part in parts]) for field in fields))


class TripleBatches:
    """Shuffled batches of triples, epoch after epoch, the same for any number of processes and readers.

    Iterating gives the rest of the current epoch and then moves on to the next. The last, smaller batch of an epoch is
    left out, unless it is the only one. The position is a few integers; `load_state_dict` seeks.

    Args:
        stores: where the triples lie.
        batch_size: of the global batch, over all processes.
        seed: of order and split.
        rank, world_size: this process takes its part of every global batch.
        part: `train` (nine tenths), `held-out` (one tenth, drawn across all layers) or `all`.
        block, mix: see `order.Order`; memory is about 40 bytes for each of block · mix parameters, three times.

    Raises:
        UserError: no stores, or a batch that cannot be cut over the processes.
    """

    def __init__(
        self,
        stores: Sequence[TripleStore],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        part: Part = "train",
        block: int = 1 << 18,
        mix: int = 8,
    ) -> None:
        if not stores:
            raise UserError("no triple stores were given")
        if batch_size < 1 or batch_size % world_size:
            raise UserError(f"a batch of {batch_size} cannot be cut over {world_size} processes")
        self.stores, self.batch_size, self.seed = list(stores), batch_size, seed
        self._rank, self._world_size = rank, world_size
        self._part, self._block, self._mix = part, block, mix
        self._epoch, self._batch = 0, 0
        total = sum(count(0, size, seed, part) for size in sizes_of(self.stores))
        self._length = max(1, total // batch_size)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._length

    def __iter__(self) -> Iterator[Triples]:
        order = self._order()
        size = min(self.batch_size, len(order))
        part = size // self._world_size
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="triples") as reader:
            windows = _ReadAhead(reader, self._read, order)
            while self._batch < len(self):
                start = self._batch * size + self._rank * part
                batch = windows.cut(start, start + part)
                self._batch += 1  # before the yield: a state taken by the consumer counts this batch as done
                yield batch
        self._epoch, self._batch = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands, and over what."""
        return {"epoch": self._epoch, "batch": self._batch, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            UserError: it is of other stores, another seed, batch size or blocks (names what differs).
        """
        for key, value in self._identity().items():
            if state[key] != value:
                raise UserError(f"the saved position is of another {key}: {state[key]} there, {value} here")
        self._epoch, self._batch = state["epoch"], state["batch"]

    def _identity(self) -> dict[str, Any]:
        return {
            "stores": [store.fingerprint for store in self.stores],
            "seed": self.seed,
            "batch_size": self.batch_size,
            "part": self._part,
            "block": self._block,
            "mix": self._mix,
        }

    def _order(self) -> Order:
        return Order(sizes_of(self.stores), self.seed, self._epoch, self._part, self._block, self._mix)

    def _read(self, order: Order, window: Window) -> Triples:
        parts = []
        for block in window.blocks:
            span = slice(block.start, block.stop)
            parts.append(_read(self.stores[block.store], block.store, span, _wanted(span, order.seed, order.part)))
        return Triples.cat(parts)[torch.from_numpy(order.permutation(window))]


def sample(store: TripleStore, limit: int, seed: int, part: Part = "all") -> Triples:
    """At most `limit` triples of a part of the split, drawn evenly from every shard; in the order of their index.

    Reads the store shard by shard.
    """
    total = count(0, len(store), seed, part)
    generator = np.random.Generator(np.random.PCG64(stream("sample of triples", seed)))
    parts = []
    for span in (store.grid.span(k) for k in range(store.grid.shards)):
        wanted = np.flatnonzero(_wanted(span, seed, part))
        if total > limit:
            n = len(wanted) * limit // total
            wanted = np.sort(generator.choice(wanted, n, replace=False, shuffle=False))
        parts.append(_read(store, 0, span, wanted))
    return Triples.cat(parts)


def _wanted(span: slice, seed: int, part: Part) -> NDArray[np.bool_]:
    if part == "all":
        return np.ones(span.stop - span.start, np.bool_)
    return held_out(span.start, span.stop, seed) == (part == "held-out")


def _read(store: TripleStore, number: int, span: slice, wanted: NDArray[Any]) -> Triples:
    survival = store.survival(span)[wanted].astype(np.int64)
    return Triples(
        torch.from_numpy(store.theta(span)[wanted]),
        torch.from_numpy(store.grad(span)[wanted]),
        torch.from_numpy(survival),
        torch.full((len(survival),), number),
    )


class _ReadAhead:
    """Windows in order, the next one being read while the current one is cut."""

    def __init__(self, reader: ThreadPoolExecutor, read: Any, order: Order) -> None:
        self._submit = lambda number: reader.submit(read, order, order.windows[number])
        self._order = order
        self._open: dict[int, Future[Triples]] = {}

    def cut(self, start: int, stop: int) -> Triples:
        """The epoch's samples start..stop, over as many windows as they lie in."""
        parts, number = [], self._order.find(start)
        while start < stop:
            window = self._order.windows[number]
            end = min(stop, window.start + window.size)
            parts.append(self._window(number)[start - window.start : end - window.start])
            start, number = end, number + 1
        return parts[0] if len(parts) == 1 else Triples.cat(parts)

    def _window(self, number: int) -> Triples:
        for wanted in (number, number + 1):
            if wanted not in self._open and wanted < len(self._order.windows):
                self._open[wanted] = self._submit(wanted)
        for passed in [k for k in self._open if k < number]:
            del self._open[passed]
        return self._open[number].result()
