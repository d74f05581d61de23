"""What a surface needs to know of the network that it tabulates."""

from typing import Protocol

from torch import Tensor

from autosparse.autos.features import Features, Scale


class Scorer(Protocol):
    """A function of a parameter's features that can be tabulated; `AutoS` is one."""

    @property
    def features(self) -> Features:
        """The input transform."""

    @property
    def digest(self) -> str:
        """A hex string that differs between scorers that score differently."""

    @property
    def batch_norm(self) -> str:
        """The mode of batch normalization in the gradients that it reads, see `criteria.gradient.scoring_mode`."""

    @property
    def rounds(self) -> int:
        """The rounds in which it is meant to prune."""

    def score(self, *columns: Tensor, scale: Scale | None = None) -> Tensor:
        """Predicted survival of parameters, float32 (P,), see `AutoS.score`."""
