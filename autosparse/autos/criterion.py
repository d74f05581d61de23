"""AutoS as a criterion: prune a network by its predicted survival (paper, Algorithm 1)."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from autosparse.autos.autos import AutoS
from autosparse.autos.features import Features, Scale
from autosparse.autos.table import Surface
from autosparse.criteria import Scoring, select
from autosparse.criteria.rounds import Rounds
from autosparse.errors import UserError
from autosparse.pruning import Mask

_FLOOR = 0.1  # in rounds, no layer falls below a tenth of the network's density


@dataclass(frozen=True)
class AutoSCriterion:
    """AutoS(θ0, g0): one pass over the batches for the gradient, one over the weights for the scores.

    One with probe features trains ahead for them instead, see `autosparse.lookahead`.
    In rounds (`rounds` above 1), the gradient and all else it looks at are recomputed for the network that the round
    before has left, at its initial weights: no training. Costs so many times as much; no layer falls below a tenth of
    the network's density.

    Attributes:
        autos: the fitted network; None for a surface alone.
        surface: the network tabulated; it scores wherever it is given. In one shot the network decides near the
            threshold, so the mask is its own. In rounds, which the network would slow, the surface decides alone.
        rounds: in how many it prunes; those that it was fitted for, if None.
    """

    autos: AutoS | None
    surface: Surface | None = None
    rounds: int | None = None

    def __post_init__(self) -> None:
        if self.autos and self.surface:
            self.surface.check(self.autos)
        if self.rounds is not None and self.rounds < 1:
            raise UserError(f"rounds must be at least 1, got {self.rounds}")

    @classmethod
    def load(cls, folder: str | Path, rounds: int | None = None) -> "AutoSCriterion":
        """The criterion saved in a folder: a network, its surface, or both.

        Raises:
            UserError: none is there, one is damaged, or the surface is that of another network.
        """
        surface = Surface.load(folder) if Surface.is_in(folder) else None
        return cls(AutoS.load(folder) if surface is None or AutoS.is_in(folder) else None, surface, rounds)

    @property
    def looks_ahead(self) -> bool:
        """Whether it trains ahead in each round, for which the batches bring a learner."""
        return bool(self._source.features.probed)

    @property
    def number_of_rounds(self) -> int:
        """In how many it prunes."""
        return self._source.rounds if self.rounds is None else self.rounds

    def __call__(self, model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
        """The scores of the one round that starts from `mask`."""
        columns, scale = self._look(model, mask, scoring)
        return self._source.score(*columns, scale=scale)

    def choose(self, model: nn.Module, mask: Mask, scoring: Scoring, k: int) -> Mask:
        """Return a mask of `k` weights, in rounds or, in one shot, the network's own; see `criteria.select`.

        The surface leaves the network what is near the threshold.
        """
        if self.number_of_rounds > 1:
            return Rounds(self.__call__, self.number_of_rounds, _FLOOR).choose(model, mask, scoring, k)

        def refined(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
            if self.surface is None or self.autos is None:
                return self(model, mask, scoring)
            columns, scale = self._look(model, mask, scoring)
            return self.surface.refined(*columns, k=k, alive=mask, autos=self.autos, scale=scale)

        return select(refined, model, mask, scoring, k)

    @property
    def _source(self) -> AutoS | Surface:
        source = self.surface or self.autos
        assert source is not None
        return source

    def _look(self, model: nn.Module, mask: Mask, scoring: Scoring) -> tuple[tuple[Tensor, ...], Scale]:
        """What the features want of the parameters, and its scale over those that are alive."""
        features: Features = self._source.features
        columns = features.measure(model, mask, scoring, self._source.batch_norm)
        scale = features.scale(*columns, alive=mask)
        if mask.count < mask.layout.size:  # the gradients of what is gone may lie anywhere
            columns = tuple(values.mul_(mask.kept) for values in columns)
        return columns, scale
