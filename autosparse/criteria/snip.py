"""SNIP: connection sensitivity |θ ⊙ g| (Lee et al. 2019, eq. 6)."""

from torch import Tensor, nn

from autosparse.criteria.base import Scoring
from autosparse.criteria.gradient import mean_gradient
from autosparse.pruning import Mask


def snip(model: nn.Module, mask: Mask, scoring: Scoring, *, batch_norm: str = "batch") -> Tensor:
    """Return |θ ⊙ g|, g the gradient of the mean loss; costs a forward and a backward pass over each batch.

    The paper this package is about writes |g|; its code, like Lee et al., multiplies by θ. `batch_norm`: see
    `criteria.gradient.scoring_mode`.
    """
    layout = mask.layout
    return mean_gradient(model, layout, scoring, batch_norm).mul_(layout.flatten(layout.weights(model))).abs_()
