"""FORCE: foresight connection sensitivity (de Jorge et al. 2021, section 4.2)."""

from dataclasses import dataclass

from torch import Tensor, nn

from autosparse.criteria.base import Batches, Criterion
from autosparse.criteria.gradient import mean_gradient
from autosparse.criteria.rounds import check_repeatable, in_rounds
from autosparse.pruning import Mask


@dataclass(frozen=True)
class Force:
    """|θ ⊙ g(θ ⊙ m)|, g the gradient of the mean loss of the network that the round before has left.

    θ are the unpruned weights, so that a weight which one round removed can come back in a later one. The number kept
    falls as in `Rounds`. Looks at all batches in every round (the authors' code: at one or a few redrawn); costs
    `rounds` forward and backward passes over each.
    """

    rounds: int = 60
    batch_norm: str = "batch"

    def at(self, k: int) -> Criterion:
        """The criterion that chooses `k` weights."""

        def score(model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
            check_repeatable(batches)

            def foresight(current: Mask, theta: Tensor, left: int) -> Tensor:
                return mean_gradient(model, mask.layout, batches, self.batch_norm).mul_(theta).abs_()

            return in_rounds(model, mask, k, self.rounds, foresight, revive=True)

        return score
