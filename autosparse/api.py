"""`autosparse.prune`: choose which weights of a network to keep, before training."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Never

import numpy as np
import torch
from torch import Tensor, nn

from autosparse import registry
from autosparse.autos import AutoSCriterion
from autosparse.config import PRETRAINED, SHIPPED, BatchNorm, folder_of, is_folder
from autosparse.criteria import Chooser, Criterion, Scoring, make_criterion, select
from autosparse.criteria.base import check_values
from autosparse.criteria.gradient import restoring_model, restoring_modules, restoring_weights
from autosparse.criteria.loss import CrossEntropy, Loss
from autosparse.criteria.repeatable import RepeatableBatches, progress_bar
from autosparse.criteria.table import AHEAD, DYNAMIC, LOOK_AHEAD, ROWS, check_options
from autosparse.errors import UserError, unknown
from autosparse.generators import seeded
from autosparse.lookahead import LACKING, OptimizerFactory, OptimizerLearner
from autosparse.pruning import Layout, Mask, dense_warning
from autosparse.pruning.schedule import keep_count
from autosparse.seeds import stream

_MANY_ZEROS = 0.5  # fraction of zeros in a network that was probably pruned before, or never initialized


def prune(
    model: nn.Module,
    batches: Iterable[Any] | None = None,
    *unnamed: Never,
    sparsity: float = 0.95,
    criterion: str | Path | Criterion | Chooser = PRETRAINED,
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

    The model is left unchanged, and so are the global random generators. `mask.apply_(model)` prunes it once;
    `mask.hold(model, optimizer)` keeps it pruned in any training loop. The same call gives the same mask: each pass
    over batches that are shuffled or augmented starts from `seed`. That holds for the global generators and for the
    `generator` of a loader or sampler. A data set with a generator of its own (`numpy.random.default_rng`), or
    persistent workers that augment, give other batches in each call. After two seconds a terminal shows a progress bar.

    Args:
        model: network with convolutions, linear, attention or recurrent layers.
        batches: list or DataLoader of (inputs, targets), or of any batches that `loss` takes, with the samples along
            the first dimension (`batch_first=True` in recurrent layers). A few hundred samples are enough: each round
            takes the gradient of all, and `pretrained` has 30 rounds. A generator is read once; up to 512 MB of its
            batches are kept for further passes. Criteria that start with the first batch alone, such as `synflow`, need
            a list or a DataLoader. At most 1,000 batches if their number is unknown. None for criteria without data:
            random, random-erk, magnitude.
        unnamed: nothing; all further arguments have names.
        sparsity: fraction of the weights to remove, between 0 and 1.
        criterion: name of a criterion in `docs/criteria.md`, the folder of a saved AutoS, or a function
            (model, mask, scoring) -> scores, see `autosparse.criteria`. `pretrained` is the AutoS that comes with the
            package, `lookahead` the AutoS that trains ahead in each round.
        loss: function (model, batch) that returns the mean loss of the batch. Default: the loss of `batches`, if they
            are a task's, or else the cross-entropy of class scores.
        include: shell patterns of names of parameters to prune that are not pruned by default, as in `*.experts.*`.
        exclude: shell patterns of names of parameters to leave dense; stronger than `include`.
        mask: the weights to choose from; removed weights stay removed. It has its own choice of parameters.
        seed: seed of criteria that draw random numbers, and of the order of batches.
        rounds: number of rounds of a saved AutoS or a criterion that looks ahead. Default: the criterion's own.
        steps_per_round: number of steps that a criterion which looks ahead trains in each round, from the initial
            weights; with `rounds` rounds (five by default) it trains `rounds * steps_per_round` steps in all.
        optimizer: function that makes the optimizer of a criterion that looks ahead, best as the network will be
            trained: `lambda parameters: torch.optim.AdamW(parameters, 1e-3)`.
        batch_norm: statistics of batch norm in the gradients of snip, iterative-snip, force, grasp and prospr: those of
            each batch (`batch`) or the running ones (`running`, as in evaluation mode).

    Returns:
        The mask, on the model's device; exactly round((1 - sparsity) P) of the P weights are kept.

    Raises:
        UserError (a ValueError): the criterion is unknown, the sparsity is outside (0, 1), the model has no prunable
            weights, or the criterion cannot take the model (names the layer) or the batches.

    Warns:
        UserWarning: a layer keeps nothing; the network is mostly zeros already; more than a tenth of the weights in
            matrices stay dense without having been excluded.

    Examples:
        >>> mask = autosparse.prune(model, batches, sparsity=0.95)
        >>> mask
        Mask(96 of 1,920 weights in 2 layers)
        >>> further = autosparse.prune(model, batches, criterion="snip", mask=mask, sparsity=0.99)
        >>> further.count
        19
    """
    _refuse_unnamed(unnamed)
    sparsity = float(str(sparsity)) if isinstance(sparsity, np.floating) else sparsity  # 0.9 of any precision is 0.9
    check_sparsity(sparsity)
    for what, value, least in (("rounds", rounds, 1), ("steps_per_round", steps_per_round, 1), ("seed", seed, 0)):
        if value is not None and not (isinstance(value, Integral) and value >= least):
            raise UserError(f"{what} must be an integer of at least {least}, got {value!r}")
    if isinstance(criterion, str | Path):
        name, criterion = str(criterion), find_criterion(criterion, seed, rounds, batch_norm)
        _check_learner(name, criterion, steps_per_round, optimizer)
        own = registry.is_path(name)
    else:
        name, own = getattr(criterion, "__name__", type(criterion).__name__), True
        if rounds is not None or batch_norm != "batch":
            option = "batch_norm" if rounds is None else "rounds"
            raise UserError(f"{option}= is for a criterion given by name or folder; one of your own brings its own")
    if isinstance(criterion, type):
        raise UserError(f"the criterion {name} is a class; give an instance of it")
    if not callable(criterion) and not isinstance(criterion, Chooser):
        raise UserError(f"a criterion is a name, a folder or a function of model, mask and scoring; got a {name}")
    if loss is not None and not callable(loss):
        raise UserError(f"loss is a function (model, batch) -> the mean loss of the batch, got {loss!r}")
    start = _start(model, include, exclude, mask)
    kept = keep_count(1.0 - sparsity, start.layout.size)
    if kept > start.count:
        raise UserError(
            f"a sparsity of {sparsity} keeps {kept:,} weights, and mask= keeps {start.count:,}; "
            f"removed weights stay removed: give at least {start.sparsity:.6g}"
        )
    repeatable = RepeatableBatches(_checked(batches, name), seed)
    loss = getattr(batches, "loss", CrossEntropy()) if loss is None else loss
    learner = OptimizerLearner(optimizer, repeatable, loss, steps_per_round) if optimizer and steps_per_round else None
    with (
        seeded(stream("prune", seed)),
        progress_bar(name),
        restoring_weights(start.layout.weights(model).values() if mask is not None else ()),
        restoring_modules(model),
        torch.no_grad(),
        restoring_model(model) if own else nullcontext(),
    ):
        if mask is not None:
            start.apply_(model)
        chosen = select(criterion, model, start, Scoring(repeatable, loss, learner), kept)
    _warn_of_empty(model, chosen)
    return chosen


def _check_learner(
    name: str, criterion: Criterion | Chooser, steps: int | None, optimizer: OptimizerFactory | None
) -> None:
    """Refuse a criterion that looks ahead without steps or optimizer, and another criterion with them."""
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
    """Return the mask to start from; warn of layers that stay dense, and of weights that are mostly zero."""
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
    """Batches of a criterion that reads none."""

    def __init__(self, criterion: str) -> None:
        self._criterion = criterion

    def __iter__(self) -> Iterator[Any]:
        raise UserError(
            f"{self._criterion} needs batches, if only for their shape; random, random-erk and magnitude need none"
        )


def _warn_of_empty(model: nn.Module, mask: Mask) -> None:
    empty = mask.empty_layers()
    weights = mask.layout.weights(model)
    zero = [name for name in empty if not weights[name].any()]
    if zero:
        _warn(f"nothing is kept of layers {', '.join(zero)}: their weights are all zero")
    if rest := [name for name in empty if name not in zero]:
        _warn(f"nothing is kept of layers {', '.join(rest)}; a lower sparsity may be needed")


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)  # from the line that called `prune`


def find_criterion(
    name: str | Path, seed: int = 0, rounds: int | None = None, batch_norm: str = "batch"
) -> Criterion | Chooser:
    """Return a criterion by name, by the folder of a saved AutoS, or by path, as `file.py:function`.

    Raises:
        UserError: the name is unknown, or the criterion does not take `rounds` or `batch_norm`.
    """
    text = str(name)
    if text in DYNAMIC:
        raise UserError(f"{text} chooses its mask during the training; run autosparse prune --criteria {text}")
    if text in ROWS and text not in SHIPPED:
        return make_criterion(text, seed, batch_norm, rounds)
    check_options(text, rounds, batch_norm)
    if registry.is_path(text):
        criterion: Criterion | Chooser = registry.resolve(text, "criterion", {})
        return criterion
    if text in SHIPPED or is_folder(name):
        return AutoSCriterion.load(folder_of(name), rounds)
    names = [row for row in ROWS if row not in DYNAMIC]
    raise unknown("criterion", text, [*names, "the folder of a saved AutoS", "FILE.py:FUNCTION"])


def check_sparsity(sparsity: float) -> None:
    """Refuse a sparsity that is not a number between 0 and 1."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real) or not 0.0 < sparsity < 1.0:
        raise UserError(
            f"sparsity must be a number between 0 and 1 (0.95 removes 95% of the weights), got {sparsity!r}"
        )
