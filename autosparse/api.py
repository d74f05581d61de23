"""`autosparse.prune`: choose which weights of a network to keep, before training."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Never, get_args

import numpy as np
import torch
from torch import Tensor, nn

from autosparse import registry
from autosparse.autos import AutoSCriterion
from autosparse.config import (
    AHEAD,
    CRITERIA,
    LOOK_AHEAD,
    PRETRAINED,
    SHIPPED,
    BatchNorm,
    Dynamic,
    check_batch_norm,
    folder_of,
    is_folder,
)
from autosparse.criteria import Criterion, Targeted, make_criterion, select
from autosparse.criteria.base import check_values
from autosparse.criteria.gradient import restoring_modules
from autosparse.criteria.loss import Loss, loss_of
from autosparse.criteria.progress import showing
from autosparse.criteria.reading import Reading
from autosparse.criteria.scored import Scored
from autosparse.errors import UserError, unknown
from autosparse.generators import seeded
from autosparse.lookahead import LACKING, OptimizerFactory, OptimizerLearner, make_look_ahead
from autosparse.pruning import Layout, Mask, dense_warning
from autosparse.pruning.schedule import keep_count
from autosparse.seeds import stream

_MANY_ZEROS = 0.5  # of the weights: a network that has been pruned already, or was never initialized


def prune(
    model: nn.Module,
    batches: Iterable[Any] | None = None,
    *unnamed: Never,
    sparsity: float = 0.95,
    criterion: str | Path | Criterion | Targeted = PRETRAINED,
    loss: Loss | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    mask: Mask | None = None,
    seed: int = 0,
    rounds: int | None = None,
    steps_per_round: int | None = None,
    optimizer: OptimizerFactory | None = None,
    batch_norm: BatchNorm = "batch",
) -> Mask:
    """Choose which weights of a network to keep, before training it.

    The model is left as it was, and so are the global random generators. `mask.apply_(model)` prunes it once;
    `mask.hold(model, optimizer)` keeps it pruned in any training loop. The same call gives the same mask: each pass
    over batches that are shuffled or augmented starts from `seed`. That holds for the global generators and for the
    `generator` of a loader or sampler. A data set with a generator of its own (`numpy.random.default_rng`), or
    persistent workers that augment, give other batches in each call. After two seconds a terminal shows a progress bar.

    Args:
        model: any module with convolutions, linear, attention or recurrent layers.
        batches: (inputs, targets), or whatever `loss` takes; a list or a DataLoader. A generator or other iterator only
            for criteria that look at them once, which `pretrained` and those that work in rounds do not. A few hundred
            samples are enough: each round takes the gradient of all, and `pretrained` has 30 rounds. Of what does
            not say how many it has, at most 1,000. None for criteria that look at no data: random, random-erk,
            magnitude.
        unnamed: nothing; all that follows is given by name.
        sparsity: share of the weights to remove, between 0 and 1.
        criterion: `pretrained`, the AutoS that comes with the package, or `lookahead`, the AutoS that trains ahead in
            each round; a name in `autosparse.config.CRITERIA` or `LOOK_AHEAD`, the folder of a saved AutoS, or a
            criterion of your own.
        loss: (model, batch) -> the mean loss of the batch; the cross-entropy of class scores, if not given.
        include: shell patterns of names of parameters to prune that are not by themselves, as in `*.experts.*`.
        exclude: of those to leave dense; stronger than `include`.
        mask: what is left to choose from; what it has removed stays removed. It brings its own choice of parameters.
        seed: for criteria that draw numbers, and the order of batches.
        rounds: for a saved AutoS or a criterion that looks ahead, in how many it prunes; its own number, if not given.
        steps_per_round: number of steps that a criterion which looks ahead trains in each round, from the initial
            weights; with `rounds` rounds (five by default) it trains `rounds * steps_per_round` steps in all.
        optimizer: for such a criterion, makes the optimizer that it trains with, best as the network will be trained:
            `lambda parameters: torch.optim.AdamW(parameters, 1e-3)`.
        batch_norm: for criteria in `autosparse.config.BY_LOSS`, whether batch norm works on each batch (`batch`) or by
            its running statistics (`running`, as in evaluation mode).

    Returns:
        The mask, on the model's device; exactly round((1 - sparsity) P) of the P weights are kept.

    Raises:
        UserError (a ValueError): an unknown criterion, a sparsity outside (0, 1), a model without prunable weights, or
            one that the criterion cannot take (names the layer), or batches that have no such loss.

    Warns:
        UserWarning: a layer of which nothing is kept; a network that is mostly zeros already; more than a tenth of the
            weights in matrices that stay dense without having been excluded.
    """
    _refuse_unnamed(unnamed)
    sparsity = float(str(sparsity)) if isinstance(sparsity, np.floating) else sparsity  # 0.9 of any precision is 0.9
    check_sparsity(sparsity)
    for what, value, least in (("rounds", rounds, 1), ("steps_per_round", steps_per_round, 1), ("seed", seed, 0)):
        if value is not None and not (isinstance(value, Integral) and value >= least):
            raise UserError(f"{what} must be an integer of at least {least}, got {value!r}")
    name = (
        str(criterion)
        if isinstance(criterion, str | Path)
        else getattr(criterion, "__name__", type(criterion).__name__)
    )
    if isinstance(criterion, str | Path):
        criterion = find_criterion(criterion, seed, rounds, batch_norm)
        _check_ahead(name, criterion, steps_per_round, optimizer)
    elif rounds is not None:
        raise UserError("rounds are for a criterion given by name or folder; one of your own brings its own")
    elif batch_norm != "batch":
        raise UserError("batch_norm is for a criterion given by name; one of your own brings its own")
    if not callable(criterion) and not isinstance(criterion, Targeted):
        raise UserError(f"a criterion is a name, a folder or a function of model, mask and batches; got a {name}")
    if loss is not None and not callable(loss):
        raise UserError(f"loss is a function (model, batch) -> the mean loss of the batch, got {loss!r}")
    start = _start(model, include, exclude, mask)
    kept = keep_count(1.0 - sparsity, start.layout.size)
    if kept > start.count:
        raise UserError(
            f"a sparsity of {sparsity} keeps {kept:,} weights, and mask has {start.count:,} left; "
            f"what is removed stays so: give at least {start.sparsity:.6g}"
        )
    given = _checked(batches, name)
    with seeded(stream("prune", seed)), showing(name), _masked(model, start), restoring_modules(model), torch.no_grad():
        loss = loss_of(given) if loss is None else loss
        reading = Reading(given, seed)
        learner = OptimizerLearner(optimizer, reading, loss, steps_per_round) if optimizer and steps_per_round else None
        read = Scored(reading, loss, learner=learner)
        chosen = select(criterion, model, start, read, kept)
    _warn_of_empty(model, chosen)
    return chosen


def _check_ahead(
    name: str, criterion: Criterion | Targeted, steps: int | None, optimizer: OptimizerFactory | None
) -> None:
    """Refuse what does nothing, or a look ahead that lacks something."""
    if name in LOOK_AHEAD or getattr(criterion, "looks_ahead", False):
        if steps is None or optimizer is None:
            raise UserError(LACKING.format(name))
        if not callable(optimizer):
            raise UserError(
                "optimizer= takes a function that makes one: lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
            )
    elif steps is not None or optimizer is not None:
        raise UserError(f"{name} does not train: steps_per_round= and optimizer= are for {AHEAD}")


def _refuse_unnamed(unnamed: Sequence[object]) -> None:
    if unnamed:
        first = unnamed[0]
        by_name = f"sparsity={first}" if isinstance(first, Real) else f"criterion={first!r}".partition("\n")[0]
        raise UserError(f"only the model and the batches go without a name; the others have one, as in {by_name}")


def _start(model: nn.Module, include: Sequence[str], exclude: Sequence[str], mask: Mask | None) -> Mask:
    """The mask to start from; warns of layers that stay dense, and of weights that are mostly zero."""
    if mask is not None and (include or exclude):
        raise UserError("mask has its own choice of parameters; include= and exclude= are for a start without one")
    layout = Layout.of(model, include, exclude) if mask is None else mask.layout
    check_values(model, layout)
    weights = layout.weights(model)
    device = next(iter(weights.values())).device
    if mask is None:
        mask = Mask.full(layout, device)
        if warning := dense_warning(model, layout, exclude):
            _warn(warning)
    mask = mask.to(device)
    parts = layout.unflatten(mask.kept)
    alive = sum(int((weight.ne(0) & parts[name]).count_nonzero()) for name, weight in weights.items())
    if mask.count - alive > _MANY_ZEROS * mask.count:
        zeros = 1 - alive / mask.count
        _warn(f"{zeros:.0%} of the weights are zero already; if they were pruned before, give that mask as mask=")
    return mask


def _checked(batches: Iterable[Any] | None, criterion: str) -> Iterable[Any]:
    if batches is None:
        return _NoData(criterion)
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
        raise UserError(
            f"batches are a list of batches or a DataLoader, got a {type(batches).__name__}; "
            "give a single one as [batch]"
        )
    if isinstance(batches, tuple) and batches and all(isinstance(part, Tensor) for part in batches):
        raise UserError("batches are a list of batches or a DataLoader, got one batch; give [(inputs, targets)]")
    return batches


class _NoData:
    """Batches for what looks at none."""

    def __init__(self, criterion: str) -> None:
        self._criterion = criterion

    def __iter__(self) -> Iterator[Any]:
        raise UserError(
            f"{self._criterion} needs batches, if only for their shape; random, random-erk and magnitude need none"
        )


@contextlib.contextmanager
def _masked(model: nn.Module, mask: Mask) -> Iterator[None]:
    """The model with a mask applied, and after as it was."""
    if mask.count == mask.layout.size:
        yield
        return
    weights = mask.layout.weights(model)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    mask.apply_(model)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])


def _warn_of_empty(model: nn.Module, mask: Mask) -> None:
    empty = mask.empty_layers()
    weights = mask.layout.weights(model)
    zero = [name for name in empty if not weights[name].any()]
    if zero:
        _warn(f"nothing is kept of layers {', '.join(zero)}: their weights are all zero")
    if rest := [name for name in empty if name not in zero]:
        _warn(f"nothing is kept of layers {', '.join(rest)}; a lower sparsity may be needed")


def _warn(message: str) -> None:
    """As from the line that called `prune`, which called what calls this."""
    warnings.warn(message, stacklevel=4)


def find_criterion(
    name: str | Path, seed: int = 0, rounds: int | None = None, batch_norm: str = "batch"
) -> Criterion | Targeted:
    """A criterion by name, by the folder of a saved AutoS, or `package.module:function` or `path/file.py:function`.

    Raises:
        UserError: an unknown name, or `rounds` or `batch_norm` for a criterion that has no choice of them.
    """
    check_rounds(str(name), rounds)
    if name in CRITERIA:
        return make_criterion(str(name), seed, batch_norm)
    if name in get_args(Dynamic):
        raise UserError(f"{name} chooses its mask during the training; run autosparse prune --criteria {name}")
    check_batch_norm(str(name), batch_norm)
    if name in LOOK_AHEAD:
        return make_look_ahead(str(name), rounds)
    if registry.is_path(str(name)):
        own: Criterion | Targeted = registry.resolve(str(name), "criterion", {})
        return own
    if name in SHIPPED or is_folder(name):
        return AutoSCriterion.load(folder_of(name), rounds)
    names = [*SHIPPED, *CRITERIA, *LOOK_AHEAD]
    raise unknown("criterion", str(name), [*names, "the folder of a saved AutoS", "FILE.py:FUNCTION"])


def check_rounds(name: str, rounds: int | None) -> None:
    """Refuse a number of rounds for a criterion that has none, or its own.

    Raises:
        UserError: its number of rounds cannot be chosen.
    """
    if rounds is not None and (name in CRITERIA or registry.is_path(name)):
        raise UserError(
            f"rounds are for a saved AutoS and for {AHEAD}, not for {name}; snip in rounds is iterative-snip"
        )


def check_sparsity(sparsity: float) -> None:
    """Refuse a sparsity that is not a number between 0 and 1.

    Raises:
        UserError: it is not.
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real) or not 0.0 < sparsity < 1.0:
        raise UserError(
            f"sparsity must be a number between 0 and 1 (0.95 removes 95% of the weights), got {sparsity!r}"
        )
