"""Scores and masks that lie in parts, gone through piece by piece, in one process or a slice on each of several."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Part = tuple[Tensor, Tensor | None]
_CHUNKS = (1 << 20, 1 << 22)  # scores looked at together on CPU, where they stay in the cache, and on GPU
BINS = 1 << 16


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for many small operations: a second gains little, and where others compute they wait for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class World:
    """The processes that hold a slice each, or this one alone."""

    distributed: bool

    @property
    def rank(self) -> int:
        """The number of this process."""
        return torch.distributed.get_rank() if self.distributed else 0

    def total(self, counts: Tensor) -> Tensor:
        """The sum over all, on each."""
        return self._reduced(counts, torch.distributed.ReduceOp.SUM) if self.distributed else counts

    def highest(self, values: Tensor) -> Tensor:
        """The maximum over all, on each."""
        return self._reduced(values, torch.distributed.ReduceOp.MAX) if self.distributed else values

    def gather_counts(self, count: int) -> list[int]:
        """The count of each."""
        if not self.distributed:
            return [count]
        counts = torch.zeros(torch.distributed.get_world_size(), dtype=torch.int64, device="cpu")
        counts[self.rank] = count
        return [int(slot) for slot in self.total(counts)]

    def _reduced(self, values: Tensor, by: torch.distributed.ReduceOp.RedOpType) -> Tensor:
        reduced = values.to("cuda" if torch.distributed.get_backend() == "nccl" else "cpu", copy=True)
        torch.distributed.all_reduce(reduced, by)
        return reduced.to(values.device)


def pieces(parts: Iterable[Part]) -> Iterator[Part]:
    """The parts, in pieces that are small."""
    for scores, alive in parts:
        size = _CHUNKS[scores.is_cuda]
        for start in range(0, len(scores), size):
            span = slice(start, start + size)
            yield scores[span], None if alive is None else alive[span]


def bin_of(histogram: Tensor, k: int) -> tuple[int, int]:
    """The bin that holds the k-th highest key, and how many keys lie in higher bins."""
    from_top = histogram.flip(0).cumsum(0)
    position = int(torch.searchsorted(from_top, torch.tensor(k, device=histogram.device)))
    above = int(from_top[position - 1]) if position else 0
    return len(histogram) - 1 - position, above
