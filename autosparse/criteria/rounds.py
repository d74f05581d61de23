"""Criteria in rounds: score, prune a little, score the rest, before any training."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from autosparse.criteria.base import Criterion, Scoring, select
from autosparse.criteria.gradient import restoring_weights
from autosparse.criteria.repeatable import round_started
from autosparse.errors import UserError
from autosparse.pruning import Mask, keep_top, keep_top_each

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rounds:
    """A criterion in rounds, each of which scores the network that the previous round left.

    The number kept falls geometrically, A (k/A)^(i/N) after round i of N with A kept at the start; a removed weight
    stays removed. Looks at all batches in every round; costs N times the criterion.

    With SNIP it is iterative SNIP (de Jorge et al. 2021, section 4.1, with 60 rounds); with `synflow` it is SynFlow
    (Tanaka et al. 2020, algorithm 1, with 100 rounds).

    Attributes:
        criterion: function that scores in each round.
        rounds: number of rounds, N.
        floor: no layer falls below this fraction of the network's density or loses its last weight, unless it had less
            before: a guard against layer collapse, which logs a warning if it had to act. 0 for no guard.
    """

    criterion: Criterion
    rounds: int
    floor: float = 0.0

    def choose(self, model: nn.Module, mask: Mask, scoring: Scoring, k: int) -> Mask:
        """Return the mask after the last round; see `select`."""
        scoring = replace(scoring, memo={})
        spared = set[str]()

        def select_round(current: Mask, count: int, last: bool) -> Mask:
            def score(model: nn.Module, current: Mask, scoring: Scoring) -> Tensor:
                scores = self.criterion(model, current, scoring)
                if self.floor:
                    spared.update(spare(scores, count, current, self.floor))
                return scores

            try:
                return select(score, model, current, scoring, count, refuse_ties=last)
            except UserError as error:
                removed = [name for name in current.empty_layers() if name not in mask.empty_layers()]
                if not removed:
                    raise
                raise UserError(f"{error}; earlier rounds removed all of {', '.join(removed)}") from error

        chosen = in_rounds(model, mask, k, self.rounds, select_round)
        if spared:
            layers = ", ".join(layer.name for layer in mask.layout.layers if layer.name in spared)
            log.warning("layers that would have lost nearly all weights keep their best-scoring ones: %s", layers)
        return chosen


def in_rounds(
    model: nn.Module, mask: Mask, k: int, rounds: int, select_round: Callable[[Mask, int, bool], Mask]
) -> Mask:
    """Return the mask after the last round; the model's weights are restored bit for bit.

    `select_round` is called with the mask of the previous round, which the model's weights have, the number of weights
    to keep and whether this is the last round. It returns the mask of the round.
    """
    start = mask.count
    with restoring_weights(mask.layout.weights(model).values()) as restore:
        for i in range(1, rounds + 1):
            round_started(i, rounds)
            count = round(start * (k / start) ** (i / rounds)) if i < rounds else k
            mask = select_round(mask, count, i == rounds)
            if i < rounds:
                restore()
                mask.apply_(model)
    return mask


def spare(scores: Tensor, k: int, mask: Mask, floor: float) -> list[str]:
    """Raise the scores of each layer's best weights to ∞, in place, if some layer would keep too few of them.

    A layer keeps at least the fraction `floor` of the density k / P, and one weight. Returns the names of the layers
    that would have kept less.
    """
    layout = mask.layout
    kept = keep_top(scores, k, mask)
    spans = [slice(layer.offset, layer.offset + layer.size) for layer in layout.layers]
    least = [max(1, math.ceil(floor * k / layout.size * layer.size)) for layer in layout.layers]
    least = [min(count, int(mask.kept[span].count_nonzero())) for count, span in zip(least, spans, strict=True)]
    if sum(least) > k:  # With fewer weights than layers nothing can be spared.
        return []
    best = keep_top_each(scores, least, mask).kept
    names = [
        layer.name
        for layer, span, count in zip(layout.layers, spans, least, strict=True)
        if int(kept.kept[span].count_nonzero()) < count
    ]
    if names:  # Of all layers, or one layer's weights would be taken from another's last.
        scores.masked_fill_(best, torch.inf)
    return names
