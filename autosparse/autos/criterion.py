"""AutoS as a criterion: prune a network by its predicted survival (paper, Algorithm 1)."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from autosparse.autos.autos import AutoS
from autosparse.autos.lookup_table import LookupTable
from autosparse.criteria import Scoring, select
from autosparse.criteria.rounds import Rounds
from autosparse.errors import UserError
from autosparse.pruning import Mask

_FLOOR = 0.1  # In rounds, no layer falls below a tenth of the network's density.


@dataclass(frozen=True)
class AutoSCriterion:
    """AutoS(θ0, g0): one pass over the batches for the gradient, one over the weights for the scores.

    With probe features it trains ahead in each round, see `autosparse.lookahead`. In rounds, each round recomputes the
    gradient and the other columns for the network that the previous round left, at its initial weights. There is no
    training; N rounds cost N times as much, and no layer falls below a tenth of the network's density.

    Attributes:
        scorer: the lookup table of a fit; or its network, which gives nearly the same scores a thousand times slower.
        rounds: number of rounds. Default: the number of its fit.
    """

    scorer: LookupTable | AutoS
    rounds: int | None = None

    def __post_init__(self) -> None:
        if self.rounds is not None and self.rounds < 1:
            raise UserError(f"rounds must be at least 1, got {self.rounds}")

    @classmethod
    def load(cls, folder: str | Path, rounds: int | None = None) -> "AutoSCriterion":
        """Return the criterion saved in a folder.

        Raises:
            UserError: the lookup table is missing or damaged.
        """
        return cls(LookupTable.load(folder), rounds)

    @property
    def looks_ahead(self) -> bool:
        """Whether it trains ahead in each round, which needs a learner."""
        return bool(self.scorer.features.probed)

    @property
    def number_of_rounds(self) -> int:
        """Number of rounds in which it prunes."""
        return self.scorer.rounds if self.rounds is None else self.rounds

    def __call__(self, model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
        """Return the scores of one round that starts from `mask`, float32 (P,)."""
        features, pruned = self.scorer.features, mask.count < mask.layout.size
        columns = features.measure(model, mask, scoring, self.scorer.batch_norm)
        kept = (values[mask.kept] for values in columns) if pruned else columns
        scale = features.scale(*kept, pruned=pruned)
        if pruned:  # Gradients of removed weights may lie outside the table.
            columns = tuple(values.mul_(mask.kept) for values in columns)
        return self.scorer.score(*columns, scale=scale)

    def choose(self, model: nn.Module, mask: Mask, scoring: Scoring, k: int) -> Mask:
        """Return a mask of `k` weights, in one shot or in rounds; see `criteria.select`."""
        if self.number_of_rounds == 1:
            return select(self.__call__, model, mask, scoring, k)
        return Rounds(self.__call__, self.number_of_rounds, _FLOOR).choose(model, mask, scoring, k)
