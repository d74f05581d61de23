"""What a newcomer meets first: prune a network in one line."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from autosparse.autos import AutoSCriterion
from autosparse.config import CRITERIA, PRETRAINED, folder_of, is_folder
from autosparse.criteria import Criterion, Targeted, make_criterion, select
from autosparse.errors import UserError, unknown
from autosparse.pruning import Layout, Mask
from autosparse.pruning.schedule import keep_count


def prune(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    criterion: str | Path | Criterion | Targeted = PRETRAINED,
    sparsity: float = 0.95,
    seed: int = 0,
    rounds: int | None = None,
) -> Mask:
    """Choose which weights of a network to keep, before training it.

    The model is left as it was; `mask.apply_(model)` prunes it, and `autosparse.training.train`, or the hook that
    `mask.export(model)` installs, keeps it pruned while it learns.

    Args:
        model: any module with convolutions or linear layers that maps inputs to class scores.
        batches: (inputs, targets), a list or a DataLoader; a generator only for criteria that look at them once, which
            `pretrained` and those that work in rounds do not.
        criterion: `pretrained`, the AutoS that comes with the package; a name in `autosparse.config.CRITERIA`, the
            folder of a saved AutoS, or a criterion of your own.
        sparsity: share of the weights to remove, between 0 and 1.
        seed: for criteria that draw numbers.
        rounds: for a saved AutoS, in how many it prunes; those that it was fitted for, if not given.

    Returns:
        The mask, on the model's device; exactly round((1 - sparsity) P) of the P weights are kept.

    Raises:
        UserError (a ValueError): an unknown criterion, a sparsity outside (0, 1), a model without prunable weights, or
            one that the criterion cannot take (names the layer).

    Warns:
        UserWarning: a layer of which nothing is kept.
    """
    check_sparsity(sparsity)
    if isinstance(criterion, str | Path):
        criterion = find_criterion(criterion, seed, rounds)
    elif rounds is not None:
        raise UserError("rounds are for a criterion given by name or folder; one of your own brings its own")
    layout = Layout.of(model)
    full = Mask.full(layout, next(iter(layout.weights(model).values())).device)
    with torch.no_grad():
        mask = select(criterion, model, full, batches, keep_count(1.0 - sparsity, layout.size))
    if empty := mask.empty_layers():
        warnings.warn(f"nothing is kept of layers {', '.join(empty)}; a lower sparsity may be needed", stacklevel=2)
    return mask


def find_criterion(name: str | Path, seed: int = 0, rounds: int | None = None) -> Criterion | Targeted:
    """A criterion by name, or by the folder of a saved AutoS.

    Raises:
        UserError: neither, or rounds for another than an AutoS.
    """
    if name in CRITERIA:
        check_rounds(str(name), rounds)
        return make_criterion(str(name), seed)
    if name == PRETRAINED or is_folder(name):
        return AutoSCriterion.load(folder_of(name), rounds)
    raise unknown("criterion", str(name), [PRETRAINED, *CRITERIA, "or the folder of a saved AutoS"])


def check_rounds(name: str, rounds: int | None) -> None:
    """Refuse a number of rounds for a criterion that has none, or its own.

    Raises:
        UserError: it has.
    """
    if rounds is not None and name in CRITERIA:
        raise UserError(f"rounds are for a saved AutoS, not for {name}; snip in rounds is iterative-snip")


def check_sparsity(sparsity: float) -> None:
    """Refuse what is no share of the weights.

    Raises:
        UserError: outside (0, 1).
    """
    if not isinstance(sparsity, int | float) or not 0.0 < sparsity < 1.0:
        raise UserError(f"sparsity must lie between 0 and 1 (0.95 removes 95% of the weights), got {sparsity}")
