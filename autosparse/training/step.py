"""The parts of a training step: the optimizer and its rate, the loss as a number, the mask that is held."""

import torch
from torch import Tensor, nn

from autosparse.errors import UserError
from autosparse.pruning import Mask
from autosparse.tasks.recipe import Recipe

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element
Held = list[tuple[Tensor, Tensor]]
"""Weights, and of each of their elements the bits that stay: all or none."""


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """A fresh optimizer of all the model's parameters."""
    if recipe.optimizer == "adamw":
        parameters = list(model.parameters())
        groups = [
            {"params": [each for each in parameters if each.dim() > 1], "weight_decay": recipe.weight_decay},
            {"params": [each for each in parameters if each.dim() < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.learning_rate, fused=True)
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


def number(loss: object) -> Tensor:
    """A loss, as a scalar."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise UserError(f"loss must return the mean loss of a batch, a tensor of one number; it returns {got}")
    return loss.reshape(())


def autocast(device: torch.device, recipe: Recipe) -> torch.autocast:
    """The context of a forward pass in the recipe's precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate from here on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def kept_bits(model: nn.Module, mask: Mask) -> Held:
    """The weights of a model and what of them is held; layers that lose nothing left out.

    The parameters themselves, not views of them: DistributedDataParallel gives a parameter new memory.
    """
    kept = mask.layout.unflatten(mask.kept)
    return [
        (weight, bits_of(weight, kept[name]))
        for name, weight in mask.layout.weights(model).items()
        if not kept[name].all()
    ]


def bits_of(weight: Tensor, kept: Tensor) -> Tensor:
    """Integers of the weight's shape: all bits are set where it is kept, none elsewhere.

    They have the weight's strides, which makes the holding of one by the other a pass over memory in order.
    """
    return torch.empty_like(weight, dtype=_INTEGERS[weight.element_size()]).copy_(kept).neg_()


@torch.no_grad()
def zero_removed(held: Held) -> None:
    """Zero what is removed, a NaN as well; `masked_fill_` does not vectorize on a CPU and takes many times as long."""
    for weight, bits in held:
        weight.view(bits.dtype).bitwise_and_(bits)
