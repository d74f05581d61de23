"""Training a masked network: one loop for every network, recipe and number of processes."""

from collections.abc import Callable
from typing import Any, TypedDict

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional as F

from autosparse.data import ImageData
from autosparse.errors import UserError
from autosparse.pruning import Mask
from autosparse.seeds import streams
from autosparse.training.checkpoint import Checkpoint
from autosparse.training.epoch import end_epoch, private_generators
from autosparse.training.recipe import Recipe


class Epoch(TypedDict):
    """What is known of one epoch of training.

    `loss` is the mean over the main process's part of the batches; accuracies are shares of the images, `validation`
    None without a split.
    """

    epoch: int
    loss: float
    test: float
    validation: float | None


def train(
    model: nn.Module,
    mask: Mask,
    data: ImageData,
    recipe: Recipe,
    accelerator: Accelerator,
    *,
    seed: int = 0,
    resume: Checkpoint | None = None,
    progress: Callable[[int], object] = lambda steps: None,
    after_epoch: Callable[[int], object] = lambda epochs: None,
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
        after_epoch: called with the number of epochs done, before any checkpoint says so.

    Returns:
        One entry an epoch.

    Raises:
        UserError: the loss is no longer a number (names the epoch and the first layer that is not finite).
    """
    if recipe.channels_last:
        model.to(
            memory_format=torch.channels_last
        )  # before anything takes the strides of its weights: optimizer, gradients, wrapper
    mask.apply_(model)
    removed = _removed(model, mask)
    optimizer = make_optimizer(recipe, model)
    position = resume.load(model, optimizer) if resume else None
    _hold(removed)
    history: list[Epoch] = position["history"] if position else []
    first_epoch, first_step = (position["epoch"], position["step"]) if position else (0, 0)
    if resume and len(set(gather_object([(first_epoch, first_step)]))) > 1:  # on a network file system, for a moment
        raise UserError(f"not all processes see the same {resume.path}; run the same again")
    total = torch.zeros((), device=accelerator.device)
    if position:
        total += position["total"]
    batches = data.training(recipe.batch_size, seed, recipe.augment)
    progress(first_epoch * len(batches) + first_step)
    # inside the wrapper: torch.compile gives up on the forward pass of DistributedDataParallel without a word
    compiled = torch.compile(model) if recipe.compile else model
    network = accelerator.prepare_model(compiled)

    with private_generators(accelerator.device):
        for epoch in range(first_epoch, recipe.epochs):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(epoch)
            model.train()
            dropout = streams("dropout", len(batches), seed, epoch, data.rank)
            for step, (inputs, targets) in enumerate(batches.epoch(epoch, first_step), first_step):
                torch.manual_seed(int(dropout[step]))
                with torch.autocast(inputs.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                    loss = F.cross_entropy(network(_as_trained(inputs, recipe)), targets)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                _hold(removed)
                total += loss.detach()
                progress(1)
                if resume and resume.due():
                    here = {"epoch": epoch, "step": step + 1, "history": history, "total": total.item()}
                    resume.save(model, optimizer, here)
            first_step = 0
            mean_loss = end_epoch(model, total, len(batches), epoch, accelerator)
            validation = evaluate(model, data, "validation", accelerator, recipe) if data.has_validation else None
            test = evaluate(model, data, "test", accelerator, recipe)
            history.append(Epoch(epoch=epoch + 1, loss=mean_loss, test=test, validation=validation))
            after_epoch(epoch + 1)
            if resume and resume.due():
                resume.save(model, optimizer, {"epoch": epoch + 1, "step": 0, "history": history, "total": 0.0})
    if recipe.channels_last:
        model.to(memory_format=torch.contiguous_format)
    if network is not compiled:
        accelerator.free_memory()  # the wrapper of this training, which holds a copy of the gradients
    return history


@torch.no_grad()
def evaluate(model: nn.Module, data: ImageData, split: str, accelerator: Accelerator, recipe: Recipe) -> float:
    """Share of the images of `test` or `validation` that the model classifies rightly, over all processes."""
    training = model.training
    model.eval()
    counts = torch.zeros(2, dtype=torch.float64, device=accelerator.device)  # right, seen
    for inputs, targets in data.evaluation(split):
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            predicted = model(_as_trained(inputs, recipe)).argmax(1)
        counts[0] += (predicted == targets).sum()
        counts[1] += len(targets)  # a number for the kernel: a tensor of it would wait for the GPU
    right, seen = accelerator.reduce(counts, "sum").tolist()
    model.train(training)
    return right / seen


def _as_trained(inputs: Tensor, recipe: Recipe) -> Tensor:
    """Inputs (B, C, H, W) with the strides that the recipe trains with."""
    return inputs.contiguous(memory_format=torch.channels_last) if recipe.channels_last else inputs


def _removed(model: nn.Module, mask: Mask) -> list[tuple[nn.Parameter, Tensor]]:
    """Weights and which of their elements are removed; layers that lose nothing left out.

    The parameters themselves, not views of them: DistributedDataParallel gives a parameter new memory. Both have the
    same strides, which makes the filling of one by the other a pass over memory in order.
    """
    removed = mask.layout.unflatten(~mask.kept)
    return [
        (
            weight,
            where if where.stride() == weight.stride() else torch.empty_like(weight, dtype=torch.bool).copy_(where),
        )
        for name, weight in mask.layout.weights(model).items()
        if (where := removed[name]).any()
    ]


@torch.no_grad()
def _hold(removed: list[tuple[nn.Parameter, Tensor]]) -> None:
    for weight, where in removed:
        weight.masked_fill_(where, 0.0)


def summarize(history: list[Epoch]) -> dict[str, Any]:
    """The accuracies that a table needs, of the test images.

    `accuracy` is that of the last epoch; `accuracy_best_validation` that of the epoch best on the validation split
    (None without one); `accuracy_best_test` the maximum over epochs, which is what the paper reports and which has
    chosen its epoch by the test set.
    """
    best = max((epoch for epoch in history if epoch["validation"] is not None), key=_validation, default=None)
    return {
        "accuracy": history[-1]["test"],
        "accuracy_best_validation": best["test"] if best else None,
        "accuracy_best_test": max(epoch["test"] for epoch in history),
    }


def _validation(epoch: Epoch) -> float:
    return epoch["validation"] or 0.0


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """A fresh optimizer of all the model's parameters."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(
            model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=0.9 if recipe.optimizer == "nesterov" else 0.0,
        nesterov=recipe.optimizer == "nesterov",
        weight_decay=recipe.weight_decay,
        fused=True,
    )
