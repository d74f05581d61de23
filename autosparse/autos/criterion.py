"""AutoS as a criterion: prune a network by its predicted survival (paper, Algorithm 1)."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from autosparse.autos.network import AutoS
from autosparse.autos.surface import Surface
from autosparse.criteria import Criterion
from autosparse.criteria.contract import Batches
from autosparse.criteria.gradient import mean_gradient
from autosparse.pruning import Mask


@dataclass(frozen=True)
class AutoSCriterion:
    """AutoS(θ0, g0): one pass over the batches for the gradient, one over the weights for the scores.

    Attributes:
        autos: the fitted network; None for a surface alone.
        surface: the same tabulated. Where both are there the surface scores, and choices are the network's own.
    """

    autos: AutoS | None
    surface: Surface | None = None

    def __post_init__(self) -> None:
        if self.autos and self.surface:
            self.surface.check(self.autos)

    @classmethod
    def load(cls, folder: str | Path) -> "AutoSCriterion":
        """The criterion saved in a folder: a network, its surface, or both.

        Raises:
            UserError: none is there, one is damaged, or the surface is that of another network.
        """
        surface = Surface.load(folder) if Surface.is_in(folder) else None
        return cls(AutoS.load(folder) if surface is None or AutoS.is_in(folder) else None, surface)

    def __call__(self, model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
        scorer = self.surface or self.autos
        assert scorer is not None
        return scorer.score(*self._features(model, mask, batches))

    def at(self, k: int) -> Criterion:
        """The criterion that chooses the network's own `k`: the surface leaves it what is near the threshold."""
        if self.surface is None or self.autos is None:
            return self
        surface, autos = self.surface, self.autos

        def score(model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
            return surface.refined(*self._features(model, mask, batches), k, mask, autos)

        return score

    def _features(self, model: nn.Module, mask: Mask, batches: Batches) -> tuple[Tensor, Tensor]:
        layout, source = mask.layout, self.autos or self.surface
        assert source is not None
        theta = layout.flatten(layout.weights(model)).float()
        return theta, mean_gradient(model, layout, batches, source.batch_norm)
