"""The interfaces of criteria, and the one way from a criterion to a mask."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from autosparse.criteria.failures import refuse_zeros
from autosparse.criteria.loss import CrossEntropy, Loss
from autosparse.criteria.repeatable import tensors_of
from autosparse.distributed import broadcast
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask, keep_top
from autosparse.pruning.prunable import is_sharded

_CROSS_ENTROPY = CrossEntropy()


@dataclass(frozen=True)
class Scoring:
    """Batches, their loss and all else that a criterion needs besides the weights.

    Attributes:
        batches: batches (inputs, targets), or of any kind that `loss` takes. Under `torch.distributed` each process has
            its own batches.
        loss: function (model, batch) that returns the mean loss of the batch. Default: cross-entropy.
        learner: trains the model ahead for criteria that need it, see `autosparse.lookahead.Learner`.
        memo: results that are the same in all rounds of one selection; None outside of `Rounds`.

    Examples:
        >>> from autosparse.criteria import Scoring
        >>> scoring = Scoring(batches)
        >>> round(float(scoring.loss(model, batches[0])), 1)
        2.3
    """

    batches: Iterable[Any] = ()
    loss: Loss = _CROSS_ENTROPY
    learner: Any = None
    memo: dict[str, Any] | None = None


class Criterion(Protocol):
    """A function that scores every prunable parameter; the highest scores are kept.

    Examples:
        >>> def largest(model, mask, scoring):
        ...     return mask.layout.flatten(mask.layout.weights(model)).abs()
        >>> autosparse.prune(model, criterion=largest, sparsity=0.9)
        Mask(192 of 1,920 weights in 2 layers)
    """

    def __call__(self, model: nn.Module, mask: Mask, scoring: Scoring, /) -> Tensor:
        """Return scores float32 (P,) in layout order, on the model's device.

        Args:
            model: model with `mask` applied to its weights; left unchanged.
            mask: the weights to choose from.
            scoring: batches and loss. The scores are those of the batches of all processes.
        """


@runtime_checkable
class Chooser(Protocol):
    """A criterion that chooses the mask itself: in rounds, or layer by layer.

    Examples:
        >>> from autosparse.criteria.data_free import magnitude
        >>> from autosparse.criteria.rounds import Rounds
        >>> autosparse.prune(model, batches, criterion=Rounds(magnitude, rounds=5), sparsity=0.9)
        Mask(192 of 1,920 weights in 2 layers)
    """

    def choose(self, model: nn.Module, mask: Mask, scoring: Scoring, k: int) -> Mask:
        """Return a mask of `k` of the weights that `mask` keeps; see `select`."""


def select(
    criterion: Criterion | Chooser, model: nn.Module, mask: Mask, scoring: Scoring, k: int, *, refuse_ties: bool = True
) -> Mask:
    """Choose the `k` weights that a criterion keeps, the same in every process.

    Args:
        criterion: function that scores the weights, or an object with a method `choose`.
        model: model with `mask` applied to its weights; left unchanged.
        mask: the weights to choose from.
        scoring: batches and loss.
        k: number of weights to keep.
        refuse_ties: whether scores that do not distinguish are an error, see `keep_top`.

    Returns:
        The mask, on the device of `mask`.

    Raises:
        UserError: a score is NaN, the criterion gives something else than scores or a mask of `k` weights, or it cannot
            take the model or the batches.

    Examples:
        >>> from autosparse.criteria import Scoring, make_criterion, select
        >>> from autosparse.pruning import Layout, Mask
        >>> select(make_criterion("snip"), model, Mask.full(Layout.of(model)), Scoring(batches), 100)
        Mask(100 of 1,920 weights in 2 layers)
    """
    check_values(model, mask.layout)
    if isinstance(criterion, Chooser):
        return _checked(criterion.choose(model, mask, scoring, k), mask, k)
    scores = criterion(model, mask, scoring)
    if not isinstance(scores, Tensor) or scores.dtype != torch.float32 or scores.shape != mask.kept.shape:
        given = f"{scores.dtype} {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise UserError(
            f"a criterion gives scores float32 ({mask.layout.size},), higher is kept; this one gives {given}"
        )
    scores = broadcast(scores.detach())
    refuse_zeros(scores, model, mask)
    return keep_top(scores, k, mask, refuse_ties=refuse_ties)


def _checked(chosen: Mask, mask: Mask, k: int) -> Mask:
    """Refuse a chooser's mask that has another layout, keeps another number of weights or revives removed ones."""
    if not isinstance(chosen, Mask) or chosen.layout != mask.layout:
        raise UserError(f"choose() gives a mask of the layout of mask; this one gives a {type(chosen).__name__}")
    if chosen.count != k:
        raise UserError(f"choose() gives a mask of {k:,} weights; this one keeps {chosen.count:,}")
    if revived := int((chosen.kept & ~mask.kept).count_nonzero()):
        raise UserError(f"removed weights stay removed; the mask of this choose() revives {revived:,}")
    return chosen


def check_values(model: nn.Module, layout: Layout) -> None:
    """Refuse weights whose values this process does not have."""
    for name, weight in layout.weights(model).items():
        if weight.is_meta:
            raise UserError(f"layer {name} is on the meta device, without values; build the model elsewhere")
        if is_sharded(weight):
            raise UserError(
                f"layer {name} is sharded (a DTensor, as of FSDP2); choose the mask before sharding the model, "
                "and apply or hold it after"
            )


def check_finite(scoring: Scoring) -> None:
    """Refuse batches that explain why a result is not finite."""
    for number, batch in enumerate(scoring.batches, 1):
        if not all(tensor.isfinite().all() for tensor in tensors_of(batch)):
            raise UserError(f"batch {number} has values that are not finite (NaN or infinity)")
