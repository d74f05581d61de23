"""Exact selection by radix: keep the k highest of the scores that a mask keeps.

A histogram of the upper halves of the scores' bits finds the bin of the threshold, and one of the lower halves within
that bin finds the threshold; a third pass compares. If only some of the scores at the threshold are kept, the
priorities of their indices decide in the same way. Nothing is sorted, so memory besides scores and mask is small.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from autosparse.errors import UserError, counted
from autosparse.pruning.layout import Layout
from autosparse.pruning.mask import Mask

_BINS = 1 << 16
_CHUNKS = (1 << 20, 1 << 22)  # scores per operation on a CPU, where they stay in the cache, and on a GPU
_INFINITE, _MINUS_INFINITE = 0xFF80, 0x007F  # the bins of the infinities; NaNs are in these or beyond
_FEW_TIES = 0.01  # fraction of the scores that may tie at one value: bfloat16 weights do, and still differ from others
_PRIORITIES = 1 << 48
_SHOWN = 3  # layers named in an error


def keep_top(scores: Tensor, k: int, mask: Mask, *, refuse_ties: bool = True) -> Mask:
    """Keep the `k` highest scores among the parameters that a mask keeps.

    Exactly `k` are kept, and what `mask` has removed stays removed, whatever its score. Of equal scores those are kept
    that come first in a fixed random order of the indices; -0 equals 0.

    Args:
        scores: float32 (P,), on any device; higher is kept. Scores of removed parameters are ignored.
        k: number of parameters to keep, 0 to `mask.count`.
        mask: the mask before, on the device of `scores`.
        refuse_ties: whether scores that do not distinguish are an error.

    Raises:
        UserError: a score is NaN (names its layer), k is out of range, or more than half of the k would be drawn among
            equal scores that are zero, -inf or more than 1% of all (names the layers in which all are equal).

    Examples:
        >>> from autosparse.pruning import Layout, Mask, keep_top
        >>> full = Mask.full(Layout.of(model))
        >>> keep_top(torch.randn(full.layout.size), 100, full)
        Mask(100 of 1,920 weights in 2 layers)
    """
    if scores.dtype != torch.float32 or scores.shape != mask.kept.shape:
        raise ValueError(f"scores must be float32 {tuple(mask.kept.shape)}, got {scores.dtype} {tuple(scores.shape)}")
    alive = None if mask.count == mask.layout.size else mask.kept
    with _one_thread():
        return Mask(mask.layout, _select(_Scores(scores, alive), k, mask.layout, refuse_ties))


def keep_top_each(scores: Tensor, counts: Sequence[int], mask: Mask) -> Mask:
    """Keep the `counts[l]` highest scores of each layer l, like `keep_top`, whatever the ties."""
    kept = torch.empty_like(mask.kept)
    with _one_thread():
        for layer, count in zip(mask.layout.layers, counts, strict=True):
            span = slice(layer.offset, layer.offset + layer.size)
            kept[span] = _select(_Scores(scores[span], mask.kept[span], layer.offset), count, mask.layout, False)
    return Mask(mask.layout, kept)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: a second gains little for many small operations, and waits where other processes compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Scores:
    """Scores to select from.

    Attributes:
        values: float32 (n,).
        alive: bool (n,), which of them can be kept; None for all.
        offset: flat index of the first.
    """

    values: Tensor
    alive: Tensor | None
    offset: int = 0

    def chunks(self) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """Yield (start, scores, alive) of pieces that fit into the cache."""
        size = _CHUNKS[self.values.is_cuda]
        for start in range(0, len(self.values), size):
            span = slice(start, start + size)
            yield start, self.values[span], None if self.alive is None else self.alive[span]

    def priorities(self, start: int, scores: Tensor, alive: Tensor | None, value: float) -> tuple[Tensor, Tensor]:
        """Return the positions in a chunk of the scores that equal a value, and their priorities."""
        equal = scores == value if alive is None else (scores == value) & alive
        positions = equal.nonzero().squeeze(1)
        return positions, priority(positions + (self.offset + start))


def _select(scores: _Scores, k: int, layout: Layout, refuse_ties: bool) -> Tensor:
    """Return bool (n,), true for the k highest."""
    upper = _histogram(scores, None)
    if int(upper[: _MINUS_INFINITE + 1].sum() + upper[_INFINITE:].sum()):
        _refuse_nan(scores, layout)
    total = int(upper.sum())
    if not 0 <= k <= total:
        raise UserError(f"cannot keep {k} of {total} parameters that are kept before")
    if k == 0:
        return _above(scores, torch.inf, _PRIORITIES)
    top, above = _bin_of(upper, k)
    lower = _histogram(scores, top)
    bottom, within = _bin_of(lower, k - above)
    value, equal, wanted = _value(top, bottom), int(lower[bottom]), k - above - within
    if wanted == equal:
        return _above(scores, value, 0)
    distinct = equal <= _FEW_TIES * total and value not in (0.0, -torch.inf)
    if refuse_ties and 2 * wanted > k and not distinct:
        _refuse_ties(scores, value, (wanted, equal, k), layout)
    return _above(scores, value, _least_priority(scores, value, wanted))


def _above(scores: _Scores, threshold: float, least: int) -> Tensor:
    """Select the scores above a threshold, and of those at it, the ones of at least a priority."""
    selected = torch.empty(len(scores.values), dtype=torch.bool, device=scores.values.device)
    for start, values, alive in scores.chunks():
        kept = values >= threshold if least == 0 else values > threshold
        if alive is not None:
            kept &= alive
        if 0 < least < _PRIORITIES:
            positions, priorities = scores.priorities(start, values, alive, threshold)
            kept[positions] = priorities >= least
        selected[start : start + len(kept)] = kept
    return selected


def _histogram(scores: _Scores, top: int | None) -> Tensor:
    """Count the scores by the upper half of their keys, or by the lower half those whose upper half is `top`.

    Returns:
        int64 (65536,) on the device of the scores.
    """
    counts, removed = torch.zeros(_BINS, dtype=torch.int64, device=scores.values.device), 0
    for _, values, alive in scores.chunks():
        if alive is not None:  # much faster than gathering them; the surplus is subtracted below
            values = values.where(alive, -torch.inf)
            removed += len(alive) - int(alive.count_nonzero())
        counts += _count_upper(values) if top is None else _count_lower(values, top)
    if top is None:  # negative floats, in the upper half of the bins, are ordered backwards
        counts = torch.cat((counts[_BINS // 2 :].flip(0), counts[: _BINS // 2]))
    if top in (None, _MINUS_INFINITE):
        counts[_MINUS_INFINITE if top is None else 0xFFFF] -= removed
    return counts


def _count_upper(scores: Tensor) -> Tensor:
    """Count scores by the upper half of their bits rather than of their key, which saves a step for each."""
    bits = (scores + 0.0).view(torch.int32)
    return torch.bincount(bits.bitwise_right_shift_(16).bitwise_and_(0xFFFF), minlength=_BINS)


def _count_lower(scores: Tensor, top: int) -> Tensor:
    # In the bins of the infinities one of these bounds is NaN and bounds nothing.
    beyond = (scores < _value(top, 0)).logical_or_(scores > _value(top, 0xFFFF))
    bits = (scores[beyond.logical_not_()] + 0.0).view(torch.int32)  # adding 0 makes -0 and 0 equal
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # in the order of the floats
    return torch.bincount(keys[(keys >> 16) + _BINS // 2 == top] & 0xFFFF, minlength=_BINS)


def _value(top: int, bottom: int) -> float:
    """Return the float whose key has these halves."""
    key = ((top - _BINS // 2) << 16) | bottom
    bits = torch.tensor(key ^ ((key >> 31) & 0x7FFFFFFF), dtype=torch.int32, device="cpu")
    return float(bits.view(torch.float32))


def _bin_of(histogram: Tensor, k: int) -> tuple[int, int]:
    """Return the bin that holds the k-th highest key, and the number of keys in higher bins."""
    from_top = histogram.flip(0).cumsum(0)
    position = int(torch.searchsorted(from_top, torch.tensor(k, device=histogram.device)))
    above = int(from_top[position - 1]) if position else 0
    return len(histogram) - 1 - position, above


def priority(index: Tensor) -> Tensor:
    """Map each flat index in [0, 2^48) to another int64 in [0, 2^48): a fixed permutation that looks random.

    By index alone the first layers, and the first units of a layer, would win every tie.
    """
    mixed = index
    for shift, odd in ((25, 0xFF51AFD7ED55), (23, 0xC4CEB9FE1A85), (26, 0x9E3779B97F4B)):
        mixed = ((mixed ^ (mixed >> shift)) * odd) & (_PRIORITIES - 1)  # each step is invertible, so no two collide
    return mixed ^ (mixed >> 24)


def _least_priority(scores: _Scores, value: float, wanted: int) -> int:
    """Return the priority from which on exactly `wanted` of the scores that equal a value are kept."""
    prefix = 0
    for shift in (32, 16, 0):
        counts = torch.zeros(_BINS, dtype=torch.int64, device=scores.values.device)
        for start, values, alive in scores.chunks():
            _, priorities = scores.priorities(start, values, alive, value)
            within = priorities[priorities >> (shift + 16) == prefix]
            counts += torch.bincount((within >> shift) & (_BINS - 1), minlength=_BINS)
        place, above = _bin_of(counts, wanted)
        prefix, wanted = prefix << 16 | place, wanted - above
        if int(counts[place]) == wanted:
            break
    return prefix << shift


def _refuse_nan(scores: _Scores, layout: Layout) -> None:
    bad = scores.values.isnan() if scores.alive is None else scores.values.isnan() & scores.alive
    if count := int(bad.count_nonzero()):
        layer = layout.layer_at(scores.offset + int(bad.nonzero()[0]))
        raise UserError(f"{count} scores are NaN, the first in layer {layer.name}")


def _refuse_ties(scores: _Scores, value: float, drawn: tuple[int, int, int], layout: Layout) -> NoReturn:
    """Refuse scores that do not distinguish; `drawn`: how many would be drawn of how many ties to keep how many."""
    constant = {}  # score of each layer that has at least two scores, all of them equal
    for layer in layout.layers:
        span = slice(layer.offset, layer.offset + layer.size)
        values = scores.values[span] if scores.alive is None else scores.values[span][scores.alive[span]]
        if len(values) > 1 and values.amin() == values.amax():
            constant[layer.name] = float(values[0])
    removed = [name for name, score in constant.items() if score == -torch.inf]
    where = f"; all scores are equal in {_listed(constant)}" if constant else ""
    if removed:
        where = f"; nothing is left of {_listed(removed)}"
        cause = "too few rounds, of which one has removed a whole layer, or a criterion that scores it -inf"
    elif value == 0:
        cause = (
            "all-zero gradients: a zero-initialized head, a backbone without gradients, a network cut in two, "
            "or a training run that diverged"
        )
    else:
        cause = "weights set to one value or of low precision, or a criterion of few values"
    taken, equal, k = drawn
    raise UserError(
        f"the scores do not tell the weights apart: {taken:,} of the {k:,} to keep would be drawn among {equal:,} that "
        f"score {value:g}{where}; likely {cause}"
    )


def _listed(names: Collection[str]) -> str:
    """Return how many layers there are, and the names of the first."""
    some = ", ".join(list(names)[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{counted(len(names), 'layer')} ({some})"
