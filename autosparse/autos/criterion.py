"""AutoS as a criterion: prune a network by its predicted survival (paper, Algorithm 1)."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from autosparse.autos.network import AutoS
from autosparse.criteria.gradient import mean_gradient
from autosparse.pruning import Mask


@dataclass(frozen=True)
class AutoSCriterion:
    """AutoS(θ0, g0): one pass over the batches for the gradient, one over the weights for the scores."""

    autos: AutoS

    @classmethod
    def load(cls, folder: str | Path) -> "AutoSCriterion":
        """The criterion saved in a folder."""
        return cls(AutoS.load(folder))

    def __call__(self, model: nn.Module, mask: Mask, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        layout = mask.layout
        theta = layout.flatten(layout.weights(model)).float()
        return self.autos.score(theta, mean_gradient(model, layout, batches, self.autos.batch_norm))
