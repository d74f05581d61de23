"""Exact selection: the k highest scores among those alive.

Two passes over the bits of the scores find the threshold: a histogram of their upper halves, then of the lower halves
in the one bin that it falls in; a third compares. Where not all that lie on the threshold are kept, the priorities of
their indices choose in the same way. Nothing is sorted and nothing gathered, so that memory beside scores and mask is a
small constant, on one device, on ranks that hold a slice each, and over scores larger than memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from autosparse.errors import UserError
from autosparse.pruning.layout import Layout
from autosparse.pruning.mask import Mask
from autosparse.pruning.parts import BINS, Part, World, bin_of, one_thread, pieces
from autosparse.pruning.ties import ALL, NONE, least_priority, refuse_ties, tied

_FEW = 0.01
"""Fraction of the scores: bfloat16 weights have that many ties at one value, which still differ from the others."""
_INFINITE, _MINUS_INFINITE = 0xFF80, 0x007F  # the bins of the infinities; NaNs lie in them and beyond


@one_thread()
def keep_top(scores: Tensor, k: int, alive: Mask, *, lenient: bool = False) -> Mask:
    """Keep the `k` highest scores among the parameters of `alive`.

    Exactly `k` are kept, and what `alive` has removed stays removed, whatever its score. Of equal scores those are kept
    that come first in a fixed random order of the indices; -0 equals 0. Scores that do not distinguish are an error.

    Args:
        scores: float32 (P,), on any device; higher is kept. Only those alive are looked at.
        k: how many to keep, 0 to `alive.count`.
        alive: the mask before; must be on the device of `scores`.
        lenient: take scores that do not distinguish: a round on the way to the mask may begin with what is dead.

    Raises:
        UserError: a score that is alive is NaN (names its layer), k is out of range, or more than half of the k would
            be drawn among equal scores that are zero, -inf or more than 1% of all (names the layers in which all are
            equal).
    """
    if scores.dtype != torch.float32 or scores.shape != alive.kept.shape:
        raise ValueError(f"scores must be float32 {tuple(alive.kept.shape)}, got {scores.dtype} {tuple(scores.shape)}")
    part = (scores, None if alive.count == alive.layout.size else alive.kept)
    masks = _kept([part], k, alive.layout, World(False), 0, lenient=lenient)
    return Mask(alive.layout, _joined(masks, alive.kept))


@one_thread()
def keep_top_each(scores: Tensor, counts: Sequence[int], alive: Mask) -> Mask:
    """Keep the `counts[l]` highest scores of each layer l; as `keep_top`, but whatever the ties."""
    kept = torch.empty_like(alive.kept)
    for layer, count in zip(alive.layout.layers, counts, strict=True):
        span = slice(layer.offset, layer.offset + layer.size)
        alone = Layout((replace(layer, offset=0),))
        masks = _kept([(scores[span], alive.kept[span])], count, alone, World(False), layer.offset, lenient=True)
        kept[span] = _joined(masks, alive.kept[span])
    return Mask(alive.layout, kept)


def keep_top_of_parts(parts: Iterable[Part], k: int, layout: Layout, *, distributed: bool = False) -> Iterator[Tensor]:
    """The mask of `keep_top`, piece by piece, for scores that lie on several ranks or exceed the memory.

    Args:
        parts: iterated over several times, so no generator: float32 (n,) scores and bool (n,) of those alive, or None
            where all are; end to end they are the layout's P parameters.
        k: how many to keep of them all.
        layout: the index space.
        distributed: the parts of this process are its slice, and the slices lie in the order of the ranks of
            `torch.distributed`. Histograms are all-reduced; scores stay where they are.

    Returns:
        bool pieces that end to end are the mask of this process's parts. The threshold is found before this returns.

    Raises:
        UserError: as in `keep_top`; on every rank.
        ValueError: the parts are not as long as the layout.
    """
    return _kept(parts, k, layout, World(distributed))


def _kept(
    parts: Iterable[Part], k: int, layout: Layout, world: World, first: int = 0, lenient: bool = False
) -> Iterator[Tensor]:
    """`keep_top_of_parts`; the first score of all has the flat index `first`. If lenient, ties may decide all."""
    upper, size = _histogram(parts, None)
    upper, sizes = world.total(upper), world.gather_counts(size)
    if sum(sizes) != layout.size:
        raise ValueError(f"the scores are {sum(sizes)}, the parameters {layout.size}")
    start = sum(sizes[: world.rank])
    if int(upper[: _MINUS_INFINITE + 1].sum() + upper[_INFINITE:].sum()):
        _refuse_nan(parts, layout, world, start)
    if not 0 <= k <= (living := int(upper.sum())):
        raise UserError(f"cannot keep {k} of {living} parameters that are alive")
    if k == 0:
        return _masks(parts, torch.inf, NONE, 0)
    top, above = bin_of(upper, k)
    lower = world.total(_histogram(parts, top)[0])
    bottom, within = bin_of(lower, k - above)
    value, equal, wanted = _value(top, bottom), int(lower[bottom]), k - above - within
    if wanted == equal:
        return _masks(parts, value, ALL, 0)
    distinct = equal <= _FEW * living and value not in (0.0, -torch.inf)
    if 2 * wanted > k and not distinct and not lenient:
        refuse_ties(parts, value, (wanted, equal, k), layout, world, start)
    least = least_priority(parts, value, wanted, world, first + start)
    return _masks(parts, value, least, first + start)


def _joined(masks: Iterable[Tensor], like: Tensor) -> Tensor:
    joined, start = torch.empty_like(like), 0
    for mask in masks:
        joined[start : start + len(mask)] = mask
        start += len(mask)
    return joined


def _keys(scores: Tensor) -> Tensor:
    """int32 in the order of the floats; -0 and 0 are the same number and get the same key."""
    bits = (scores + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _value(top: int, bottom: int) -> float:
    """The float whose key has these halves."""
    key = ((top - BINS // 2) << 16) | bottom
    bits = torch.tensor(key ^ ((key >> 31) & 0x7FFFFFFF), dtype=torch.int32, device="cpu")
    return float(bits.view(torch.float32))


@one_thread()
def _histogram(parts: Iterable[Part], top: int | None) -> tuple[Tensor, int]:
    """How many scores that are alive have which upper half of their key, or which lower half if the upper is `top`.

    Returns:
        int64 (65536,) on the device of the scores, and how many scores there are, dead or alive.
    """
    counts, size, dead = torch.zeros(BINS, dtype=torch.int64, device="cpu"), 0, 0
    for scores, alive in pieces(parts):
        size += len(scores)
        if alive is not None:
            # much faster than taking those alive out; what is counted too much is taken off below
            scores = scores.where(alive, -torch.inf)
            dead += len(alive) - int(alive.count_nonzero())
        counts = counts.to(scores.device).add_(_counted_upper(scores) if top is None else _counted_lower(scores, top))
    if top is None:  # negative floats, in the upper half of the bins, are ordered backwards
        counts = torch.cat((counts[BINS // 2 :].flip(0), counts[: BINS // 2]))
    if top in (None, _MINUS_INFINITE):
        counts[_MINUS_INFINITE if top is None else 0xFFFF] -= dead
    return counts, size


def _counted_upper(scores: Tensor) -> Tensor:
    """Count scores by the upper half of their bits, not of their key: that is a step less for each."""
    bits = (scores + 0.0).view(torch.int32)
    return torch.bincount(bits.bitwise_right_shift_(16).bitwise_and_(0xFFFF), minlength=BINS)


def _counted_lower(scores: Tensor, top: int) -> Tensor:
    # one of these bounds is no number in the bins of the infinities, and bounds nothing
    beyond = (scores < _value(top, 0)).logical_or_(scores > _value(top, 0xFFFF))
    keys = _keys(scores[beyond.logical_not_()])
    return torch.bincount(keys[(keys >> 16) + BINS // 2 == top] & 0xFFFF, minlength=BINS)


def _masks(parts: Iterable[Part], threshold: float, least: int, start: int) -> Iterator[Tensor]:
    """What lies above the threshold, and of those on it, the ones of at least a priority."""
    for scores, alive in pieces(parts):
        kept = scores >= threshold if least == ALL else scores > threshold
        if alive is not None:
            kept &= alive
        if ALL < least < NONE:
            positions, priorities = tied((scores, alive), threshold, start)
            kept[positions] = priorities >= least
            start += len(scores)
        yield kept


def _refuse_nan(parts: Iterable[Part], layout: Layout, world: World, offset: int) -> None:
    count, first = 0, layout.size
    for scores, alive in pieces(parts):
        bad = scores.isnan() if alive is None else scores.isnan() & alive
        if bad.any():
            first = min(first, offset + int(bad.nonzero()[0]))
            count += int(bad.sum())
        offset += len(scores)
    if count := sum(world.gather_counts(count)):
        layer = layout.layer_at(min(world.gather_counts(first)))
        raise UserError(f"{count} scores are NaN, the first in layer {layer.name}")
