"""What a newcomer meets first: prune a network in one line."""

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from autosparse.autos import AutoSCriterion
from autosparse.criteria import CRITERIA, Criterion, make_criterion
from autosparse.errors import UserError, unknown
from autosparse.pruning import Layout, Mask, keep_top
from autosparse.pruning.schedule import keep_count


def prune(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    criterion: str | Path | Criterion = "snip",
    sparsity: float = 0.95,
    seed: int = 0,
) -> Mask:
    """Choose which weights of a network to keep, before training it.

    The model is left as it was; `mask.apply_(model)` prunes it, and `autosparse.training.train`, or the hook that
    `mask.export(model)` installs, keeps it pruned while it learns.

    Args:
        model: any module with convolutions or linear layers that maps inputs to class scores.
        batches: (inputs, targets), iterated over once by criteria that look at data.
        criterion: a name (`random`, `magnitude`, `snip`), the folder of a saved AutoS, or a callable of your own.
        sparsity: share of the weights to remove, between 0 and 1.
        seed: for criteria that draw numbers.

    Returns:
        The mask, on the model's device; exactly round((1 - sparsity) P) of the P weights are kept.

    Raises:
        UserError (a ValueError): an unknown criterion, a sparsity outside (0, 1), a model without prunable weights.
    """
    check_sparsity(sparsity)
    criterion = find_criterion(criterion, seed) if isinstance(criterion, str | Path) else criterion
    layout = Layout.of(model)
    full = Mask.full(layout, next(iter(layout.weights(model).values())).device)
    return choose(criterion, model, full, batches, keep_count(1.0 - sparsity, layout.size))


@torch.no_grad()
def choose(
    criterion: Criterion, model: nn.Module, alive: Mask, batches: Iterable[tuple[Tensor, Tensor]], k: int
) -> Mask:
    """The k parameters of `alive` that a criterion scores highest; with a saved AutoS, those of its network.

    Raises:
        UserError: what the criterion refuses, or a score that is NaN.
    """
    if isinstance(criterion, AutoSCriterion):
        return criterion.keep_top(model, alive, batches, k)
    return keep_top(criterion(model, alive, batches), k, alive)


def find_criterion(name: str | Path, seed: int = 0) -> Criterion:
    """A criterion by name, or by the folder of a saved AutoS.

    Raises:
        UserError: neither.
    """
    if name in CRITERIA:
        return make_criterion(str(name), seed)
    if is_path(name):
        return AutoSCriterion.load(name)
    raise unknown("criterion", str(name), [*CRITERIA, "or the folder of a saved AutoS"])


def is_path(name: str | Path) -> bool:
    """Whether a criterion is given as a folder rather than by name."""
    return isinstance(name, Path) or os.sep in name or Path(name).is_dir()


def check_sparsity(sparsity: float) -> None:
    """Refuse what is no share of the weights.

    Raises:
        UserError: outside (0, 1).
    """
    if not isinstance(sparsity, int | float) or not 0.0 < sparsity < 1.0:
        raise UserError(f"sparsity must lie between 0 and 1 (0.95 removes 95% of the weights), got {sparsity}")
