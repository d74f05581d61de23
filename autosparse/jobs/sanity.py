"""Sanity checks of pruning at initialization (Frankle et al. 2021): what a mask contributes beyond densities.

`shuffled`: does it matter which weights of a layer are kept? `reinitialized`: does the mask depend on the initial
weights? `inverted`: is the order of the scores the right way round?
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from autosparse.criteria import Chooser, Criterion, Scoring, select
from autosparse.criteria.rounds import Rounds
from autosparse.pruning import Mask
from autosparse.seeds import stream


def shuffled(mask: Mask, seed: int) -> Mask:
    """Return a mask with its elements permuted at random within each layer; layers keep their densities."""
    generator = torch.Generator().manual_seed(stream("shuffled mask", seed))
    parts = [kept.reshape(-1) for kept in mask.layout.unflatten(mask.kept).values()]
    order = [torch.randperm(len(part), generator=generator).to(part.device) for part in parts]
    return Mask(mask.layout, torch.cat([part[index] for part, index in zip(parts, order, strict=True)]))


@dataclass(frozen=True)
class Inverted:
    """Keeps the lowest of a criterion's scores, in every round of one that works in rounds.

    Of a criterion that chooses the mask itself, it keeps the weights that the criterion removes.
    """

    criterion: Criterion | Chooser

    def choose(self, model: nn.Module, mask: Mask, scoring: Scoring, k: int) -> Mask:
        """Return a mask of `k` weights; see `select`."""
        criterion = self.criterion
        if isinstance(criterion, Rounds):
            return replace(criterion, criterion=_negated(criterion.criterion)).choose(model, mask, scoring, k)
        if isinstance(criterion, Chooser):
            highest = select(criterion, model, mask, scoring, mask.count - k)
            return Mask(mask.layout, mask.kept & ~highest.kept)
        # The lowest scores may tie, such as those of a gradient of zero.
        return select(_negated(criterion), model, mask, scoring, k, refuse_ties=False)


def _negated(criterion: Criterion) -> Criterion:
    return lambda model, mask, scoring: -criterion(model, mask, scoring)


def reinitialized(seed: int) -> int:
    """Return the seed of the initial weights that replace those of a seed."""
    return stream("weights drawn anew", seed) % (1 << 32)
