"""Sanity checks of pruning at initialization (Frankle et al. 2021): what a mask contributes beyond densities.

`shuffled`: does it matter which weights of a layer are kept? `reinitialized`: does the mask depend on the initial
weights? `inverted`: is the order of the scores the right way round?
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from autosparse.criteria import Criterion, Targeted
from autosparse.criteria.base import Batches
from autosparse.criteria.rounds import Rounds
from autosparse.pruning import Mask
from autosparse.seeds import stream


def shuffled(mask: Mask, seed: int) -> Mask:
    """Return a mask with its elements permuted at random within each layer; layers keep their densities."""
    generator = torch.Generator().manual_seed(stream("shuffled mask", seed))
    parts = [kept.reshape(-1) for kept in mask.layout.unflatten(mask.kept).values()]
    order = [torch.randperm(len(part), generator=generator).to(part.device) for part in parts]
    return Mask(mask.layout, torch.cat([part[index] for part, index in zip(parts, order, strict=True)]))


def inverted(criterion: Criterion | Targeted, k: int) -> Criterion:
    """Return the criterion that keeps the `k` lowest scores of another one, in every round if that works in rounds."""
    if isinstance(criterion, Rounds) and not isinstance(criterion.criterion, Targeted):
        return replace(criterion, criterion=_negated(criterion.criterion)).at(k)

    def score(model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
        # The k lowest are chosen by choosing all the others.
        scored = criterion.at(mask.count - k) if isinstance(criterion, Targeted) else criterion
        return -scored(model, mask, batches)

    return score


def _negated(criterion: Criterion) -> Criterion:
    return lambda model, mask, batches: -criterion(model, mask, batches)


def reinitialized(seed: int) -> int:
    """Return the seed of the initial weights that replace those of a seed."""
    return stream("weights drawn anew", seed) % (1 << 32)
