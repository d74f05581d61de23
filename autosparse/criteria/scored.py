"""Batches with the loss that goes with them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from autosparse.criteria.loss import Loss


@dataclass(frozen=True)
class Scored:
    """Any batches, and the loss that gradients of them are of; see `criteria.loss.loss_of`.

    Attributes:
        batches: iterated over as they are.
        loss: (model, batch) -> the mean loss of the batch.
        memo: where criteria note what they need not find out again, if it is of one model alone; see `Rounds`.
        learner: what trains ahead for criteria that look ahead, see `autosparse.lookahead.Learner`.
    """

    batches: Iterable[Any]
    loss: Loss
    memo: dict[str, Any] | None = None
    learner: Any = None

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)
