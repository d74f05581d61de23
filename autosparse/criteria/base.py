"""What a criterion is, and the one way from a criterion to a mask."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from autosparse.criteria.failures import refuse_zeros
from autosparse.distributed import broadcast
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask, keep_top
from autosparse.pruning.sharded import is_sharded

Batches = Iterable[Any]
"""(inputs, targets), or whatever their own attribute `loss` takes, see `criteria.loss.loss_of`."""


class Criterion(Protocol):
    """Scores every prunable parameter; higher is kept."""

    def __call__(self, model: nn.Module, mask: Mask, batches: Batches, /) -> Tensor:
        """Scores float32 (P,) in layout order."""


@runtime_checkable
class Targeted(Protocol):
    """A criterion that must know how many weights are to be kept: one that works in rounds, or layer by layer."""

    def at(self, k: int) -> Criterion:
        """The criterion that chooses `k` weights: the k highest of its scores are the choice."""


def select(criterion: Criterion | Targeted, model: nn.Module, mask: Mask, batches: Batches, k: int) -> Mask:
    """The mask of the `k` weights that a criterion keeps, the same in every process.

    Args:
        criterion: any.
        model: its weights are those to be scored, `mask` already applied to them; left as it was.
        mask: what is left to choose from.
        batches: (inputs, targets), or with a loss of their own; under `torch.distributed` this process's own.
        k: how many to keep.

    Raises:
        UserError: a score that is NaN, or a model or batches that the criterion cannot take.
    """
    check_values(model, mask.layout)
    score = criterion.at(k) if isinstance(criterion, Targeted) else criterion
    scores = score(model, mask, batches)
    if not isinstance(scores, Tensor) or scores.dtype != torch.float32 or scores.shape != mask.kept.shape:
        given = f"{scores.dtype} {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise UserError(
            f"a criterion gives scores float32 ({mask.layout.size},), higher is kept; this one gives {given}"
        )
    scores = broadcast(scores)
    refuse_zeros(scores, model, mask)
    return keep_top(scores, k, mask)


def check_values(model: nn.Module, layout: Layout) -> None:
    """Refuse weights whose values this process does not have.

    Raises:
        UserError: a layer is on the meta device or sharded.
    """
    weights = layout.weights(model)
    if absent := [name for name, weight in weights.items() if weight.is_meta]:
        raise UserError(f"layer {absent[0]} is on the meta device, without values; build the model elsewhere")
    if sharded := [name for name, weight in weights.items() if is_sharded(weight)]:
        raise UserError(
            f"layer {sharded[0]} is sharded (a DTensor, as of FSDP2); choose the mask before sharding the model, "
            "and apply or hold it after"
        )
