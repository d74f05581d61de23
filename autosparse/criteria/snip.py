"""SNIP: connection sensitivity |θ ⊙ g| (Lee et al. 2019, eq. 6), and FORCE (de Jorge et al. 2021, section 4.2)."""

from dataclasses import dataclass

from torch import Tensor, nn

from autosparse.criteria.base import Scoring, select
from autosparse.criteria.gradient import mean_gradient
from autosparse.criteria.rounds import in_rounds
from autosparse.pruning import Mask


def snip(model: nn.Module, mask: Mask, scoring: Scoring, *, batch_norm: str = "batch") -> Tensor:
    """Return |θ ⊙ g|, g the gradient of the mean loss; costs a forward and a backward pass over each batch.

    The paper this package is about writes |g|; its code, like Lee et al., multiplies by θ. `batch_norm`: see
    `criteria.gradient.scoring_mode`.
    """
    layout = mask.layout
    return mean_gradient(model, layout, scoring, batch_norm).mul_(layout.flatten(layout.weights(model))).abs_()


@dataclass(frozen=True)
class Force:
    """|θ ⊙ g(θ ⊙ m)|, g the gradient of the mean loss of the network that the previous round left.

    θ are the unpruned weights, so a removed weight can come back in a later round. The number kept falls as in
    `Rounds`. Looks at all batches in every round (the authors' code: at one or a few redrawn batches); costs `rounds`
    forward and backward passes over each.
    """

    rounds: int = 60
    batch_norm: str = "batch"

    def choose(self, model: nn.Module, mask: Mask, scoring: Scoring, k: int) -> Mask:
        """Return the mask after the last round; see `select`."""
        theta = mask.layout.flatten(mask.layout.weights(model))

        def foresight(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
            return mean_gradient(model, mask.layout, scoring, self.batch_norm).mul_(theta).abs_()

        def select_round(current: Mask, count: int, last: bool) -> Mask:
            return select(foresight, model, mask, scoring, count, refuse_ties=last)

        return in_rounds(model, mask, k, self.rounds, select_round)
