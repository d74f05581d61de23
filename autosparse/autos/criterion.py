"""AutoS as a criterion: prune a network by its predicted survival (paper, Algorithm 1)."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from autosparse.autos.network import AutoS
from autosparse.autos.surface import Surface
from autosparse.criteria.gradient import mean_gradient
from autosparse.pruning import Mask, keep_top


@dataclass(frozen=True)
class AutoSCriterion:
    """AutoS(θ0, g0): one pass over the batches for the gradient, one over the weights for the scores.

    Attributes:
        autos: the fitted network; None for a surface alone.
        surface: the same tabulated. Where both are there the surface scores, and masks are the network's own.
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

    def __call__(self, model: nn.Module, mask: Mask, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        theta, grad = _features(model, mask, batches)
        scorer = self.surface or self.autos
        assert scorer is not None
        return scorer.score(theta, grad)

    def keep_top(self, model: nn.Module, alive: Mask, batches: Iterable[tuple[Tensor, Tensor]], k: int) -> Mask:
        """The mask of the k parameters of `alive` that score highest: by the network where it is there.

        Then the surface leaves to the network only what lies near the threshold: see `Surface.keep_top`.
        """
        if self.surface is None:
            return keep_top(self(model, alive, batches), k, alive)
        return self.surface.keep_top(*_features(model, alive, batches), k, alive, refine=self.autos)


def _features(model: nn.Module, mask: Mask, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    layout = mask.layout
    return layout.flatten(layout.weights(model)).float(), mean_gradient(model, layout, batches)
