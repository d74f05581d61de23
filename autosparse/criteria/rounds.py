"""Criteria applied in rounds: score, prune a little, score what is left, before any training."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autosparse.criteria.base import Batches, Criterion, Targeted
from autosparse.criteria.failures import refuse_zeros
from autosparse.criteria.loss import loss_of
from autosparse.criteria.progress import round_started
from autosparse.criteria.reading import PART, source
from autosparse.criteria.scored import Scored
from autosparse.distributed import broadcast
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask, keep_top, keep_top_each

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rounds:
    """A one-shot criterion in rounds, each of which scores the network that the one before has left.

    The number kept falls geometrically, A (k/A)^(i/N) after round i of N with A alive at the start; what a round
    removes stays removed. Looks at all batches in every round; costs N times what the criterion does.

    With SNIP it is iterative SNIP (de Jorge et al. 2021, section 4.1, who take 60 rounds); with `synflow` it is
    SynFlow (Tanaka et al. 2020, algorithm 1: 100 rounds).

    Attributes:
        criterion: scores in each round; a `Targeted` one gets the number that the round keeps.
        rounds: N.
        floor: no layer falls below this share of the network's density, nor loses its last weight, unless it had less
            before: a guard against layer collapse, which logs a warning if it had to act. 0 for none.
    """

    criterion: Criterion | Targeted
    rounds: int
    floor: float = 0.0

    def at(self, k: int) -> Criterion:
        """The criterion that chooses `k` weights."""

        def score(model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
            check_repeatable(batches)
            batches = Scored(batches, loss_of(batches), memo={}, learner=getattr(batches, "learner", None))
            spared = set[str]()

            def score_round(current: Mask, theta: Tensor, left: int) -> Tensor:
                own = self.criterion.at(left) if isinstance(self.criterion, Targeted) else self.criterion
                scores = own(model, current, batches)
                if self.floor:
                    spared.update(spare(scores, left, current, self.floor))
                return scores

            scores = in_rounds(model, mask, k, self.rounds, score_round)
            if spared:
                layers = ", ".join(layer.name for layer in mask.layout.layers if layer.name in spared)
                log.warning("kept from collapse, by weights that score lower than others: %s", layers)
            return scores

        return score


def spare(scores: Tensor, k: int, alive: Mask, floor: float) -> list[str]:
    """Let each layer keep its best, whatever those of other layers score: raise their scores to ∞, in place.

    Args:
        scores: float32 (P,).
        k: how many are kept.
        alive: what is left to choose from.
        floor: share of the density k / P that a layer keeps, at least; one weight in any case.

    Returns:
        The names of the layers that would have kept less.
    """
    layout = alive.layout
    kept = keep_top(scores, k, alive)
    spans = [slice(layer.offset, layer.offset + layer.size) for layer in layout.layers]
    least = [max(1, math.ceil(floor * k / layout.size * layer.size)) for layer in layout.layers]
    least = [min(count, int(alive.kept[span].count_nonzero())) for count, span in zip(least, spans, strict=True)]
    if sum(least) > k:  # fewer weights than layers: nothing can be spared
        return []
    best = keep_top_each(scores, least, alive).kept
    found = [
        layer.name
        for layer, span, count in zip(layout.layers, spans, least, strict=True)
        if int(kept.kept[span].count_nonzero()) < count
    ]
    if found:  # of all layers, or what one is given would be taken from another's last
        scores.masked_fill_(best, torch.inf)
    return found


def in_rounds(
    model: nn.Module,
    mask: Mask,
    k: int,
    rounds: int,
    score: Callable[[Mask, Tensor, int], Tensor],
    revive: bool = False,
) -> Tensor:
    """The scores of the last round; -∞ for what it may not choose.

    Args:
        model: pruned in place from round to round; in the end its weights are what they were, bit for bit.
        mask: what is left to choose from.
        k: how many are kept in the end.
        rounds: how many times to score.
        score: (mask of the round before, which the model's weights have; flat unpruned weights; how many this round
            keeps) -> scores.
        revive: whether a round chooses from all of `mask` again, not only from what the one before kept.
    """
    layout, alive = mask.layout, mask.count
    theta = layout.flatten(layout.weights(model))
    current = choices = mask
    try:
        for i in range(1, rounds):
            round_started(i, rounds)
            left = round(alive * (k / alive) ** (i / rounds))
            scores = broadcast(score(current, theta, left))
            refuse_zeros(scores, model, current)
            current = keep_top(scores, left, choices, refuse_ties=False)
            del scores
            choices = mask if revive else current
            _set_weights(model, layout, theta)
            current.apply_(model)
        round_started(rounds, rounds)
        return score(current, theta, k).masked_fill_(~choices.kept, -torch.inf)
    finally:
        _set_weights(model, layout, theta)


@torch.no_grad()
def _set_weights(model: nn.Module, layout: Layout, theta: Tensor) -> None:
    parts = layout.unflatten(theta)
    for name, weight in layout.weights(model).items():
        weight.copy_(parts[name])


def check_repeatable(batches: Batches) -> None:
    """Refuse what can be iterated over only once.

    Raises:
        UserError: a generator or other iterator.
    """
    if isinstance(source(batches), Iterator):
        raise UserError(
            "this criterion looks at the batches several times; give a list or a DataLoader, not a generator: "
            f"{PART} is one of ten"
        )
