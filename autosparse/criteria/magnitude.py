"""Magnitude: |θ| (Han et al. 2015; the criterion of the lottery ticket hypothesis, Frankle & Carbin 2019)."""

from torch import Tensor, nn

from autosparse.criteria.base import Scoring
from autosparse.pruning import Mask


def magnitude(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
    """Return |θ|. Looks at no batch; costs a pass over the weights."""
    return mask.layout.flatten(mask.layout.weights(model)).abs().float()
