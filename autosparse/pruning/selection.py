"""Exact selection: the k highest scores among those alive."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from autosparse.errors import UserError
from autosparse.pruning.layout import Layout
from autosparse.pruning.mask import Mask

_CHUNK = 1 << 22  # elements looked at together: bounds the memory beside scores and mask
_BINS = 1 << 16


def keep_top(scores: Tensor, k: int, alive: Mask) -> Mask:
    """Keep the `k` highest scores among the parameters of `alive`.

    Exactly `k` are kept; equal scores go by index, the lower first; what `alive` has removed stays removed,
    whatever its score. Two passes over the bits of the scores (a histogram of their upper halves, then of the lower
    halves in the one bin that the threshold falls in), so that memory beside scores and mask is a small constant.

    Args:
        scores: float32 (P,), on any device; higher is kept. Only those alive are looked at.
        k: how many to keep, 0 to `alive.count`.
        alive: the mask before; must be on the device of `scores`.

    Raises:
        UserError: a score that is alive is NaN (names its layer), or k is out of range.
    """
    if scores.dtype != torch.float32 or scores.shape != alive.kept.shape:
        raise ValueError(f"scores must be float32 {tuple(alive.kept.shape)}, got {scores.dtype} {tuple(scores.shape)}")
    if not 0 <= k <= alive.count:
        raise UserError(f"cannot keep {k} of {alive.count} parameters that are alive")
    _refuse_nan(scores, alive)
    if k == 0:
        return Mask(alive.layout, torch.zeros_like(alive.kept))

    spans = [slice(start, start + _CHUNK) for start in range(0, len(scores), _CHUNK)]
    upper = torch.zeros(_BINS, dtype=torch.int64, device=scores.device)
    for span in spans:
        upper += torch.bincount((_keys(scores[span][alive.kept[span]]) >> 16) + _BINS // 2, minlength=_BINS)
    top, above = _bin_of(upper, k)
    top -= _BINS // 2
    lower = torch.zeros_like(upper)
    for span in spans:
        keys = _keys(scores[span][alive.kept[span]])
        lower += torch.bincount(keys[keys >> 16 == top] & 0xFFFF, minlength=_BINS)
    bottom, within = _bin_of(lower, k - above)
    key = torch.tensor((top << 16) | bottom, dtype=torch.int32, device=scores.device)
    threshold, ties = _turned(key).view(torch.float32), k - above - within

    kept = torch.empty_like(alive.kept)
    for span in spans:
        torch.logical_and(scores[span] > threshold, alive.kept[span], out=kept[span])
        if ties:
            tied = ((scores[span] == threshold) & alive.kept[span]).nonzero().squeeze(1)[:ties]
            kept[span][tied] = True
            ties -= len(tied)
    return Mask(alive.layout, kept)


def keep_top_each(scores: Tensor, counts: Sequence[int], alive: Mask) -> Mask:
    """Keep the `counts[l]` highest scores of each layer l; otherwise as `keep_top`."""
    kept = torch.empty_like(alive.kept)
    for layer, count in zip(alive.layout.layers, counts, strict=True):
        span = slice(layer.offset, layer.offset + layer.size)
        alone = Mask(Layout((replace(layer, offset=0),)), alive.kept[span])
        kept[span] = keep_top(scores[span], count, alone).kept
    return Mask(alive.layout, kept)


def _keys(scores: Tensor) -> Tensor:
    """int32 in the order of the floats; -0 and 0 are the same number and get the same key."""
    return _turned((scores + 0.0).view(torch.int32))


def _turned(bits: Tensor) -> Tensor:
    """The bits of negative floats, whose order is the other way round, turned; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _bin_of(histogram: Tensor, k: int) -> tuple[int, int]:
    """The bin that holds the k-th highest key, and how many keys lie in higher bins."""
    from_top = histogram.flip(0).cumsum(0)
    position = int(torch.searchsorted(from_top, torch.tensor(k, device=histogram.device)))
    above = int(from_top[position - 1]) if position else 0
    return len(histogram) - 1 - position, above


def _refuse_nan(scores: Tensor, alive: Mask) -> None:
    bad = scores.isnan() & alive.kept
    if bad.any():
        layer = alive.layout.layer_at(int(bad.nonzero()[0]))
        raise UserError(f"{int(bad.sum())} scores are NaN, the first in layer {layer.name}")
