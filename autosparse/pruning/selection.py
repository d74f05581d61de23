"""Exact selection: the k highest scores among those alive.

Two passes over the bits of the scores find the threshold: a histogram of their upper halves, then of the lower halves
in the one bin that it falls in; a third compares. Nothing is sorted and nothing gathered, so that memory beside scores
and mask is a small constant, on one device, on ranks that hold a slice each, and over scores larger than memory.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autosparse.errors import UserError
from autosparse.pruning.layout import Layout
from autosparse.pruning.mask import Mask

Part = tuple[Tensor, Tensor | None]
_CHUNKS = (1 << 18, 1 << 22)  # scores looked at together on CPU, where they stay in the cache, and on GPU
_BINS = 1 << 16
_INFINITE, _MINUS_INFINITE = 0xFF80, 0x007F  # the bins of the infinities; NaNs lie in them and beyond


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for many small operations: a second gains little, and where others compute they wait for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def keep_top(scores: Tensor, k: int, alive: Mask) -> Mask:
    """Keep the `k` highest scores among the parameters of `alive`.

    Exactly `k` are kept; equal scores go by index, the lower first, and -0 equals 0; what `alive` has removed stays
    removed, whatever its score.

    Args:
        scores: float32 (P,), on any device; higher is kept. Only those alive are looked at.
        k: how many to keep, 0 to `alive.count`.
        alive: the mask before; must be on the device of `scores`.

    Raises:
        UserError: a score that is alive is NaN (names its layer), or k is out of range.
    """
    if scores.dtype != torch.float32 or scores.shape != alive.kept.shape:
        raise ValueError(f"scores must be float32 {tuple(alive.kept.shape)}, got {scores.dtype} {tuple(scores.shape)}")
    part = (scores, None if alive.count == alive.layout.size else alive.kept)
    kept, start = torch.empty_like(alive.kept), 0
    for mask in keep_top_of_parts([part], k, alive.layout):
        kept[start : start + len(mask)] = mask
        start += len(mask)
    return Mask(alive.layout, kept)


def keep_top_each(scores: Tensor, counts: Sequence[int], alive: Mask) -> Mask:
    """Keep the `counts[l]` highest scores of each layer l; otherwise as `keep_top`."""
    kept = torch.empty_like(alive.kept)
    for layer, count in zip(alive.layout.layers, counts, strict=True):
        span = slice(layer.offset, layer.offset + layer.size)
        alone = Mask(Layout((replace(layer, offset=0),)), alive.kept[span])
        kept[span] = keep_top(scores[span], count, alone).kept
    return Mask(alive.layout, kept)


def keep_top_of_parts(parts: Iterable[Part], k: int, layout: Layout, *, ranks: bool = False) -> Iterator[Tensor]:
    """The mask of `keep_top`, piece by piece, for scores that lie on several ranks or exceed the memory.

    Args:
        parts: iterated over three times, so no generator: float32 (n,) scores and bool (n,) of those alive, or None
            where all are; end to end they are the layout's P parameters.
        k: how many to keep of them all.
        layout: the index space.
        ranks: under `torch.distributed`, the parts of this process are its slice and the slices lie in the order of
            the ranks. Histograms are all-reduced; scores stay where they are.

    Returns:
        bool pieces that end to end are the mask of this process's parts. The threshold is found before this returns.

    Raises:
        UserError: a score that is alive is NaN (names its layer), or k is out of range; on every rank.
        ValueError: the parts are not as long as the layout.
    """
    world = _World(ranks)
    upper, size = _histogram(parts, None)
    upper, sizes = world.total(upper), world.slots(size)
    if sum(sizes) != layout.size:
        raise ValueError(f"the scores are {sum(sizes)}, the parameters {layout.size}")
    if int(upper[: _MINUS_INFINITE + 1].sum() + upper[_INFINITE:].sum()):
        _refuse_nan(parts, layout, world, sum(sizes[: world.rank]))
    if not 0 <= k <= (living := int(upper.sum())):
        raise UserError(f"cannot keep {k} of {living} parameters that are alive")
    if k == 0:
        return _masks(parts, torch.inf, tied=1, wanted=0)
    top, above = _bin_of(upper, k)
    own, _ = _histogram(parts, top)
    bottom, within = _bin_of(world.total(own), k - above)
    tied = world.slots(int(own[bottom]))
    wanted = k - above - within - sum(tied[: world.rank])
    return _masks(parts, _value(top, bottom), tied[world.rank], min(max(wanted, 0), tied[world.rank]))


@dataclass(frozen=True)
class _World:
    """The processes that hold a slice each, or this one alone."""

    ranks: bool

    @property
    def rank(self) -> int:
        return torch.distributed.get_rank() if self.ranks else 0

    def total(self, counts: Tensor) -> Tensor:
        """The sum over all, on each."""
        if not self.ranks:
            return counts
        total = counts.to("cuda" if torch.distributed.get_backend() == "nccl" else "cpu", copy=True)
        torch.distributed.all_reduce(total)
        return total.to(counts.device)

    def slots(self, count: int) -> list[int]:
        """The count of each."""
        if not self.ranks:
            return [count]
        slots = torch.zeros(torch.distributed.get_world_size(), dtype=torch.int64)
        slots[self.rank] = count
        return [int(slot) for slot in self.total(slots)]


def _pieces(parts: Iterable[Part]) -> Iterator[Part]:
    for scores, alive in parts:
        size = _CHUNKS[scores.is_cuda]
        for start in range(0, len(scores), size):
            span = slice(start, start + size)
            yield scores[span], None if alive is None else alive[span]


def _keys(scores: Tensor) -> Tensor:
    """int32 in the order of the floats; -0 and 0 are the same number and get the same key."""
    bits = (scores + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _value(top: int, bottom: int) -> float:
    """The float whose key has these halves."""
    key = ((top - _BINS // 2) << 16) | bottom
    return float(torch.tensor(key ^ ((key >> 31) & 0x7FFFFFFF), dtype=torch.int32).view(torch.float32))


@_one_thread()
def _histogram(parts: Iterable[Part], top: int | None) -> tuple[Tensor, int]:
    """How many scores that are alive have which upper half of their key, or which lower half if the upper is `top`.

    Returns:
        int64 (65536,) on the device of the scores, and how many scores there are, dead or alive.
    """
    counts, size, dead = torch.zeros(_BINS, dtype=torch.int64), 0, 0
    for scores, alive in _pieces(parts):
        size += len(scores)
        if alive is not None:
            # much faster than taking those alive out; what is counted too much is taken off below
            scores = scores.where(alive, -torch.inf)
            dead += len(alive) - int(alive.count_nonzero())
        counts = counts.to(scores.device).add_(_counted(scores, top))
    if top in (None, _MINUS_INFINITE):
        counts[_MINUS_INFINITE if top is None else 0xFFFF] -= dead
    return counts, size


def _counted(scores: Tensor, top: int | None) -> Tensor:
    keys = _keys(scores)
    upper = (keys >> 16) + _BINS // 2
    half = upper if top is None else keys[(upper == top).nonzero().squeeze(1)] & 0xFFFF
    return torch.bincount(half, minlength=_BINS)


def _bin_of(histogram: Tensor, k: int) -> tuple[int, int]:
    """The bin that holds the k-th highest key, and how many keys lie in higher bins."""
    from_top = histogram.flip(0).cumsum(0)
    position = int(torch.searchsorted(from_top, torch.tensor(k, device=histogram.device)))
    above = int(from_top[position - 1]) if position else 0
    return len(histogram) - 1 - position, above


def _masks(parts: Iterable[Part], threshold: float, tied: int, wanted: int) -> Iterator[Tensor]:
    """What lies above the threshold, and of those on it, which are so many, the first that are wanted."""
    for scores, alive in _pieces(parts):
        kept = scores >= threshold if wanted == tied else scores > threshold
        if alive is not None:
            kept &= alive
        if 0 < wanted < tied:
            equal = scores == threshold if alive is None else (scores == threshold) & alive
            first = equal.nonzero().squeeze(1)[:wanted]
            kept[first] = True
            wanted, tied = wanted - len(first), tied - len(first)
        yield kept


def _refuse_nan(parts: Iterable[Part], layout: Layout, world: _World, offset: int) -> None:
    count, first = 0, layout.size
    for scores, alive in _pieces(parts):
        bad = scores.isnan() if alive is None else scores.isnan() & alive
        if bad.any():
            first = min(first, offset + int(bad.nonzero()[0]))
            count += int(bad.sum())
        offset += len(scores)
    if count := sum(world.slots(count)):
        layer = layout.layer_at(min(world.slots(first)))
        raise UserError(f"{count} scores are NaN, the first in layer {layer.name}")
