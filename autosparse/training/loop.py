"""The training loop, for every network, recipe and number of processes.

It sets removed weights to zero after each step; `Mask.hold` does so in loops of a user's own.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from operator import itemgetter
from typing import Any, TypedDict

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, recursively_apply
from torch import Tensor, nn

from autosparse.criteria.loss import check_loss
from autosparse.errors import UserError
from autosparse.generators import restoring_torch_generators, seed_torch
from autosparse.pruning import Mask
from autosparse.seeds import streams
from autosparse.tasks import Data
from autosparse.tasks.recipe import Recipe
from autosparse.training.checkpoint import Checkpoint
from autosparse.training.dynamic import Callback
from autosparse.training.step import (
    autocast,
    end_epoch,
    kept_bits,
    make_optimizer,
    set_rate,
    zero_removed,
)


class Epoch(TypedDict):
    """Results of one epoch of training.

    `epoch` counts from 1. `loss` is the mean over the main process's part of the batches. `metric` is the name of the
    task's first metric, `test` and `validation` are its values (None without that split). `more` has the other metrics
    of the test samples.
    """

    epoch: int
    loss: float
    metric: str
    test: float
    validation: float | None
    more: dict[str, float]


def train(
    model: nn.Module,
    mask: Mask,
    data: Data,
    recipe: Recipe,
    accelerator: Accelerator,
    *,
    seed: int = 0,
    resume: Checkpoint | None = None,
    progress: Callable[[int], object] = lambda steps: None,
    after_epoch: Callable[[Epoch], object] = lambda epoch: None,
    callback: Callback | None = None,
    steps: int | None = None,
) -> list[Epoch]:
    """Train a model in place; removed weights are exactly 0 after every step.

    The result is a function of the initial weights, the mask, the recipe, the seed and the number of processes. A
    training that resumes from a checkpoint ends with the same bits as one that never stopped.

    Args:
        model: the model, on `accelerator.device`.
        mask: the mask, on the same device; applied before the first step.
        data: batches, loss and metrics of the task, for this process.
        recipe: optimizer, learning rate, epochs and batch size.
        accelerator: the accelerator of this process.
        seed: seed of the order of samples, augmentation and dropout.
        resume: checkpoint to resume from and to save to. Default: none.
        progress: called with the number of steps since the last call.
        after_epoch: called with the results of each epoch, before a checkpoint contains them.
        callback: called around every step; may change the mask.
        steps: number of steps after which to stop, without evaluation. Default: all of the recipe.

    Returns:
        The results of each epoch; empty with `steps`.

    Raises:
        UserError: the loss is not finite, the task has no metrics, or the recipe has fewer steps than `steps`.
    """
    callback = callback or Callback()
    if recipe.channels_last:
        # Optimizer, gradients and wrapper take the strides of the weights, so this comes first.
        model.to(memory_format=torch.channels_last)
    mask.apply_(model)
    optimizer = make_optimizer(recipe, model)
    position = resume.load(model, optimizer) if resume else None
    if position:
        callback.load_state_dict(position["callback"])
    mask = callback.start(model, mask)
    kept = kept_bits(model, mask)
    zero_removed(kept)
    history: list[Epoch] = position["history"] if position else []
    first_epoch, first_step = (position["epoch"], position["step"]) if position else (0, 0)
    if resume and len(set(gather_object([(first_epoch, first_step)]))) > 1:  # a slow network file system
        raise UserError(f"not all processes see the same {resume.path}; run the same again")
    total = torch.zeros((), dtype=torch.float32, device=accelerator.device)
    if position:
        total += position["total"]
    batches = data.training(recipe.batch_size, seed, recipe.augment, recipe.accumulate)
    last = recipe.epochs * len(batches) if steps is None else steps
    if last > recipe.epochs * len(batches):
        raise UserError(f"{last:,} steps are more than the {recipe.epochs * len(batches):,} of a training run")
    progress(first_epoch * len(batches) + first_step)
    # Compiled inside the wrapper: torch.compile silently skips the forward pass of DistributedDataParallel.
    compiled = torch.compile(model) if recipe.compile else model
    network = accelerator.prepare_model(compiled)

    def take_step(epoch: int, step: int, pieces: Iterator[Any]) -> None:
        """Add up the gradients of the pieces of a batch, then update weights and mask."""
        nonlocal mask, kept
        for k in range(recipe.accumulate):
            seed_torch(int(dropout[step * recipe.accumulate + k]), accelerator.device)
            last_piece = k == recipe.accumulate - 1
            with nullcontext() if last_piece else accelerator.no_sync(network), autocast(accelerator.device, recipe):
                loss = check_loss(data.task.loss(network, _to_channels_last(next(pieces), recipe)))
            if recipe.accumulate > 1:
                loss = loss / recipe.accumulate
            accelerator.backward(loss)
            total.add_(loss.detach())
        done = epoch * len(batches) + step + 1
        callback.gradients(done, model)
        if recipe.clip:
            zero_removed([(weight.grad, bits) for weight, bits in kept if weight.grad is not None])
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad()
        zero_removed(kept)
        previous, mask = mask, callback.stepped(done, model, mask, optimizer)
        if mask is not previous:
            kept = kept_bits(model, mask)
            zero_removed(kept)

    def save_if_due(epoch: int, step: int) -> None:
        if resume and resume.due():
            state = callback.state_dict()
            position = {"epoch": epoch, "step": step, "history": history, "total": total.item(), "callback": state}
            resume.save(model, optimizer, position)

    with restoring_torch_generators(accelerator.device):
        for epoch in range(first_epoch, -(-last // len(batches))):
            model.train()
            dropout = streams("dropout", len(batches) * recipe.accumulate, seed, epoch, data.rank)
            pieces = batches.epoch(epoch, first_step)
            set_rate(optimizer, recipe.rate(epoch))
            for step in range(first_step, min(len(batches), last - epoch * len(batches))):
                if recipe.by_step:
                    set_rate(optimizer, recipe.rate(epoch + (step + 1) / len(batches)))
                take_step(epoch, step, pieces)
                progress(1)
                save_if_due(epoch, step + 1)
            first_step = 0
            mean_loss = end_epoch(model, total, len(batches), epoch, accelerator)
            if steps is not None:
                continue
            held_out = evaluate(model, data, "validation", accelerator, recipe) if data.has_validation else {}
            (metric, test), *more = evaluate(model, data, "test", accelerator, recipe).items()
            validation = held_out.get(metric)
            history.append(
                Epoch(epoch=epoch + 1, loss=mean_loss, metric=metric, test=test, validation=validation, more=dict(more))
            )
            after_epoch(history[-1])
            save_if_due(epoch + 1, 0)
    if recipe.channels_last:
        model.to(memory_format=torch.contiguous_format)
    if network is not compiled:
        accelerator.free_memory()  # of the wrapper, which holds a copy of the gradients
    return history


@torch.no_grad()
def evaluate(model: nn.Module, data: Data, split: str, accelerator: Accelerator, recipe: Recipe) -> dict[str, float]:
    """Return the metrics of the `test` or `validation` samples by name, over all processes."""
    training = model.training
    model.eval()
    totals = dict[str, Tensor]()  # sum, count
    for batch in data.evaluation(split):
        with autocast(accelerator.device, recipe):
            metrics = data.metrics(model, _to_channels_last(batch, recipe))
        for name, (value, count) in metrics.items():
            if name not in totals:
                totals[name] = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
            totals[name][0] += value if isinstance(value, int | float) else value.reshape(())
            totals[name][1] += count if isinstance(count, int | float) else count.reshape(())
    names = dict.fromkeys(name for process in gather_object([list(totals)]) for name in process)
    zeros = torch.zeros(2, dtype=torch.float64, device=accelerator.device)  # of a process without a batch
    sums = {name: accelerator.reduce(totals.get(name, zeros), "sum").tolist() for name in names}
    model.train(training)
    if not sums or any(not count for _, count in sums.values()):
        raise UserError(f"the task has no metrics of the {split} samples, or counts none of them")
    if wrong := [name for name, values in sums.items() if not all(map(math.isfinite, values))]:
        raise UserError(f"{wrong[0]} of the {split} samples is not a finite number")
    return {name: value / count for name, (value, count) in sums.items()}


def _to_channels_last(batch: Any, recipe: Recipe) -> Any:
    """Return a batch whose images (B, C, H, W) have the memory format of the recipe."""
    if not recipe.channels_last:
        return batch
    return recursively_apply(
        lambda tensor: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor, batch
    )


def summarize(history: list[Epoch], better: str = "higher") -> dict[str, Any]:
    """Return the results of a training run on the test samples, as tables show them.

    Args:
        history: results of the epochs.
        better: direction of the first metric, `higher` or `lower`.

    Returns:
        Values of the first metric: `test` at the last epoch, `test_best_validation` at the best epoch on the validation
        split (None without one), and `test_best` at the best epoch on the test samples, which the paper reports. Values
        of each other metric at the first two of these epochs: `test/NAME` and `test_best_validation/NAME`.
    """
    best = max if better == "higher" else min
    validated = [epoch for epoch in history if epoch["validation"] is not None]
    last, chosen = history[-1], best(validated, key=itemgetter("validation")) if validated else None
    return {
        "metric": last["metric"],
        "better": better,
        "test": last["test"],
        "test_best_validation": chosen["test"] if chosen else None,
        "test_best": best(epoch["test"] for epoch in history),
        **{f"test/{name}": value for name, value in last["more"].items()},
        **{f"test_best_validation/{name}": value for name, value in (chosen["more"] if chosen else {}).items()},
    }
