"""Criteria applied in rounds: score, prune a little, score what is left, before any training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autosparse.criteria.contract import Batches, Criterion
from autosparse.criteria.world import agreed
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask, keep_top


@dataclass(frozen=True)
class Rounds:
    """A one-shot criterion in rounds, each of which scores the network that the one before has left.

    The number kept falls geometrically, A (k/A)^(i/N) after round i of N with A alive at the start; what a round
    removes stays removed. Looks at all batches in every round; costs N times what the criterion does.

    With SNIP it is iterative SNIP (de Jorge et al. 2021, section 4.1, who take 60 rounds); with `synflow` it is
    SynFlow (Tanaka et al. 2020, algorithm 1: 100 rounds).
    """

    criterion: Criterion
    rounds: int

    def at(self, k: int) -> Criterion:
        """The criterion that chooses `k` weights."""

        def score(model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
            check_repeatable(batches)
            return in_rounds(
                model, mask, k, self.rounds, lambda current, theta: self.criterion(model, current, batches)
            )

        return score


def in_rounds(
    model: nn.Module,
    mask: Mask,
    k: int,
    rounds: int,
    score: Callable[[Mask, Tensor], Tensor],
    revive: bool = False,
) -> Tensor:
    """The scores of the last round; -∞ for what it may not choose.

    Args:
        model: pruned in place from round to round; in the end its weights are what they were, bit for bit.
        mask: what is left to choose from.
        k: how many are kept in the end.
        rounds: how many times to score.
        score: (mask of the round before, which the model's weights have, flat unpruned weights) -> scores.
        revive: whether a round chooses from all of `mask` again, not only from what the one before kept.
    """
    layout, alive = mask.layout, mask.count
    theta = layout.flatten(layout.weights(model))
    current = choices = mask
    try:
        for i in range(1, rounds):
            scores = agreed(score(current, theta))
            current = keep_top(scores, round(alive * (k / alive) ** (i / rounds)), choices)
            del scores
            choices = mask if revive else current
            _set_weights(model, layout, theta)
            current.apply_(model)
        return score(current, theta).masked_fill_(~choices.kept, -torch.inf)
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
    if isinstance(batches, Iterator):
        raise UserError(
            "a criterion in rounds looks at the batches several times; give a list or a DataLoader, not a generator"
        )
