"""Training a masked network: one loop for every network, recipe and number of processes."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from operator import itemgetter
from typing import Any, TypedDict

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, recursively_apply
from torch import Tensor, nn

from autosparse.errors import UserError
from autosparse.generators import seed_torch
from autosparse.pruning import Mask
from autosparse.seeds import streams
from autosparse.tasks import Data
from autosparse.tasks.recipe import Recipe
from autosparse.training.callback import Callback
from autosparse.training.checkpoint import Checkpoint
from autosparse.training.epoch import end_epoch, private_generators
from autosparse.training.step import autocast, kept_bits, make_optimizer, number, set_rate, zero_removed


class Epoch(TypedDict):
    """What is known of one epoch of training.

    `loss` is the mean over the main process's part of the batches; `metric` names the first metric of the task, whose
    values `test` and `validation` (None without a split) are; `more` has its other metrics of the test samples.
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
    """Train the model in place; a removed weight is exactly 0 after every step.

    The result is a function of the initial weights, the mask, the recipe, the seed and the number of processes;
    a training that goes on from a checkpoint ends with the same bits as one that was never stopped.

    Args:
        model: on `accelerator.device`.
        mask: on the same device; it is applied before the first step.
        data: made with the rank and size of this world.
        seed: of the order of samples, augmentation and dropout.
        resume: where to keep and look for the state of this training.
        progress: told the number of steps done since it was last told.
        after_epoch: called with each epoch that is done, before any checkpoint says so.
        callback: told of every step; may change the mask.
        steps: stop after so many, which evaluates nothing; the whole recipe if not given.

    Returns:
        One entry an epoch; none with `steps`.

    Raises:
        UserError: the loss is no longer a number (names the epoch and the first layer that is not finite), a task
            without metrics, or more steps than the recipe has.
    """
    callback = callback or Callback()
    if recipe.channels_last:
        model.to(
            memory_format=torch.channels_last
        )  # before anything takes the strides of its weights: optimizer, gradients, wrapper
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
    if resume and len(set(gather_object([(first_epoch, first_step)]))) > 1:  # on a network file system, for a moment
        raise UserError(f"not all processes see the same {resume.path}; run the same again")
    total = torch.zeros((), dtype=torch.float32, device=accelerator.device)
    if position:
        total += position["total"]
    batches = data.training(recipe.batch_size, seed, recipe.augment, recipe.accumulate)
    last = recipe.epochs * len(batches) if steps is None else steps
    if last > recipe.epochs * len(batches):
        raise UserError(f"{last:,} steps are more than the {recipe.epochs * len(batches):,} of a training")
    progress(first_epoch * len(batches) + first_step)
    # inside the wrapper: torch.compile gives up on the forward pass of DistributedDataParallel without a word
    compiled = torch.compile(model) if recipe.compile else model
    network = accelerator.prepare_model(compiled)

    def learn(epoch: int, step: int, pieces: Iterator[Any]) -> None:
        """One step: the gradient of each piece of the batch, then the optimizer."""
        nonlocal mask, kept
        for k in range(recipe.accumulate):
            seed_torch(int(dropout[step * recipe.accumulate + k]), accelerator.device)
            whole = k == recipe.accumulate - 1
            with nullcontext() if whole else accelerator.no_sync(network), autocast(accelerator.device, recipe):
                loss = number(data.loss(network, _as_trained(next(pieces), recipe)))
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
        held, mask = mask, callback.stepped(done, model, mask, optimizer)
        if mask is not held:
            kept = kept_bits(model, mask)
            zero_removed(kept)

    def save_if_due(epoch: int, step: int) -> None:
        if resume and resume.due():
            state = callback.state_dict()
            here = {"epoch": epoch, "step": step, "history": history, "total": total.item(), "callback": state}
            resume.save(model, optimizer, here)

    with private_generators(accelerator.device):
        for epoch in range(first_epoch, -(-last // len(batches))):
            model.train()
            dropout = streams("dropout", len(batches) * recipe.accumulate, seed, epoch, data.rank)
            pieces = batches.epoch(epoch, first_step)
            set_rate(optimizer, recipe.rate(epoch))
            for step in range(first_step, min(len(batches), last - epoch * len(batches))):
                if recipe.by_step:
                    set_rate(optimizer, recipe.rate(epoch + (step + 1) / len(batches)))
                learn(epoch, step, pieces)
                progress(1)
                save_if_due(epoch, step + 1)
            first_step = 0
            mean_loss = end_epoch(model, total, len(batches), epoch, accelerator)
            if steps is not None:
                continue
            history.append(measured(model, data, accelerator, recipe, epoch, mean_loss))
            after_epoch(history[-1])
            save_if_due(epoch + 1, 0)
    if recipe.channels_last:
        model.to(memory_format=torch.contiguous_format)
    if network is not compiled:
        accelerator.free_memory()  # the wrapper of this training, which holds a copy of the gradients
    return history


def measured(model: nn.Module, data: Data, accelerator: Accelerator, recipe: Recipe, epoch: int, loss: float) -> Epoch:
    """What is known of an epoch, counted from 0, once it is done; `loss` is its mean loss."""
    held_out = evaluate(model, data, "validation", accelerator, recipe) if data.has_validation else {}
    (name, test), *more = evaluate(model, data, "test", accelerator, recipe).items()
    return Epoch(epoch=epoch + 1, loss=loss, metric=name, test=test, validation=held_out.get(name), more=dict(more))


@torch.no_grad()
def evaluate(model: nn.Module, data: Data, split: str, accelerator: Accelerator, recipe: Recipe) -> dict[str, float]:
    """The metrics of the samples of `test` or `validation` by name, over all processes.

    Raises:
        UserError: there are no metrics, a count of zero, or a metric that is not finite.
    """
    training = model.training
    model.eval()
    totals = dict[str, Tensor]()  # sum, count
    for batch in data.evaluation(split):
        with autocast(accelerator.device, recipe):
            found = data.metrics(model, _as_trained(batch, recipe))
        for name, (value, count) in found.items():
            if name not in totals:
                totals[name] = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
            totals[name][0] += value if isinstance(value, int | float) else value.reshape(())
            totals[name][1] += count if isinstance(count, int | float) else count.reshape(())
    names = list(dict.fromkeys(name for each in gather_object([list(totals)]) for name in each))
    nothing = torch.zeros(2, dtype=torch.float64, device=accelerator.device)  # of a process without a batch
    sums = {name: accelerator.reduce(totals.get(name, nothing), "sum").tolist() for name in names}
    model.train(training)
    if not sums or any(not count for _, count in sums.values()):
        raise UserError(f"the task has no metrics of the {split} samples, or counts none of them")
    if wrong := [name for name, values in sums.items() if not all(map(math.isfinite, values))]:
        raise UserError(f"{wrong[0]} of the {split} samples is not a finite number")
    return {name: value / count for name, (value, count) in sums.items()}


def _as_trained(batch: Any, recipe: Recipe) -> Any:
    """A batch whose images (B, C, H, W) have the strides that the recipe trains with."""
    if not recipe.channels_last:
        return batch
    return recursively_apply(
        lambda tensor: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor, batch
    )


def summarize(history: list[Epoch], better: str = "higher") -> dict[str, Any]:
    """Return the results of a training on the test samples, as tables show them.

    Args:
        history: the epochs.
        better: direction of the first metric, `higher` or `lower`; the direction of others is not known.

    Returns:
        Values of the first metric: `test` of the last epoch; `test_best_validation` of the epoch that is best on the
        validation split (None without one); `test_best` of the epoch that is best on the test samples, which is what
        the paper reports. Values of each other metric at the first two of these epochs: `test/NAME` and
        `test_best_validation/NAME`.
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
