"""The parts of the training loop: optimizer, learning rate, loss, the mask that is held, the end of an epoch."""

import math
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from autosparse.errors import UserError
from autosparse.pruning import Mask
from autosparse.pruning.prunable import INTEGERS
from autosparse.tasks.recipe import Recipe

Held = list[tuple[Tensor, Tensor]]
"""Weights, each with the bits that it keeps: per element all or none."""


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Return a fresh optimizer of all parameters of a model."""
    if recipe.optimizer == "adamw":
        matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
        vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.learning_rate, fused=True)
    options: Any = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), **options)
    nesterov = recipe.optimizer == "nesterov"
    return torch.optim.SGD(model.parameters(), momentum=0.9 if nesterov else 0.0, nesterov=nesterov, **options)


def autocast(device: torch.device, recipe: Recipe) -> torch.autocast:
    """Return the context of a forward pass in the recipe's precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def kept_bits(model: nn.Module, mask: Mask) -> Held:
    """Return the weights of every layer that the mask prunes, with the bits that they keep.

    They are the parameters themselves, not views: DistributedDataParallel gives a parameter new memory.
    """
    kept = mask.layout.unflatten(mask.kept)
    return [
        # The bits have the weight's strides, so the two are combined in one pass over memory.
        (weight, torch.empty_like(weight, dtype=INTEGERS[weight.element_size()]).copy_(kept[name]).neg_())
        for name, weight in mask.layout.weights(model).items()
        if not kept[name].all()
    ]


@torch.no_grad()
def zero_removed(held: Held) -> None:
    """Zero removed weights, NaN included; `masked_fill_` does not vectorize on a CPU and takes many times as long."""
    for weight, bits in held:
        weight.view(bits.dtype).bitwise_and_(bits)


def end_epoch(model: nn.Module, total: Tensor, steps: int, epoch: int, accelerator: Accelerator) -> float:
    """Return the mean loss of the steps of an epoch on the main process; raise `UserError` if it is not finite.

    `total`, the sum of this process's losses, becomes 0. The buffers of the model, not its wrapper, become those of the
    main process, since batch norm has seen other samples in each process.
    """
    everywhere = accelerator.reduce(total, "sum").item()
    if not math.isfinite(everywhere):
        raise UserError(f"the loss is {everywhere} in epoch {epoch + 1} ({_first_not_finite(model)})")
    mean = broadcast(total).item() / steps
    total.zero_()
    broadcast(list(model.buffers()))
    return mean


def _first_not_finite(model: nn.Module) -> str:
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            return f"first layer that is not finite: {name}"
    return "all weights are finite: the inputs or the learning rate are at fault"
