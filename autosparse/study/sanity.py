"""Sanity checks of pruning at initialization (Frankle et al. 2021): what a mask knows beyond densities."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from autosparse.criteria import Criterion, Targeted
from autosparse.criteria.contract import Batches
from autosparse.pruning import Mask
from autosparse.seeds import stream

# what is done to a mask, and what it asks
SANITY = {
    "none": "the mask as it is",
    "shuffled": "the mask shuffled within its layers: does it matter which weights of a layer are kept?",
    "reinitialized": "the weights drawn anew under the mask: does it depend on the initial weights?",
    "inverted": "the scores negated: is the order the right way round?",
}


def shuffled(mask: Mask, seed: int) -> Mask:
    """The mask with its elements permuted at random within each layer; layers keep their densities."""
    generator = torch.Generator().manual_seed(stream("shuffled mask", seed))
    parts = [kept.reshape(-1) for kept in mask.layout.unflatten(mask.kept).values()]
    order = [torch.randperm(len(part), generator=generator).to(part.device) for part in parts]
    return Mask(mask.layout, torch.cat([part[index] for part, index in zip(parts, order, strict=True)]))


def inverted(criterion: Criterion | Targeted, k: int) -> Criterion:
    """The criterion that keeps the `k` lowest of another's scores."""
    score: Callable[[nn.Module, Mask, Batches], Tensor]
    score = criterion.at(k) if isinstance(criterion, Targeted) else criterion
    return lambda model, mask, batches: -score(model, mask, batches)


def reinitialized(seed: int) -> int:
    """The seed of the weights that take the place of those of a seed."""
    return stream("weights drawn anew", seed) % (1 << 32)
