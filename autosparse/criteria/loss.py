"""The loss that gradients are of, and the outputs and targets that it takes."""

from torch import Tensor
from torch.nn import functional as F

from autosparse.criteria.base import Batches
from autosparse.errors import UserError


def summed_cross_entropy(outputs: object, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """The cross-entropy of a batch, summed over its samples.

    Args:
        outputs: class scores, floating point (B, classes) or (B, classes, ...).
        targets: class indices, of any integer dtype, (B,) or (B, ...); or shares of the classes, floating point, in
            the shape of the outputs. On the same device.
        temperature: what the scores are divided by.

    Raises:
        UserError: outputs or targets that are none of these, or a class that there is no score for.
    """
    if not isinstance(outputs, Tensor):
        raise UserError(f"a network must return a tensor of class scores, this one returns a {type(outputs).__name__}")
    shape = tuple(outputs.shape)
    if len(shape) < 2 or not outputs.is_floating_point():
        raise UserError(f"class scores are floating point (B, classes), this network returns {_described(outputs)}")
    if targets.is_floating_point():
        if tuple(targets.shape) != shape:
            raise UserError(f"targets must be class indices, or shares of shape {shape}; got {_described(targets)}")
        return F.cross_entropy(outputs / temperature, targets, reduction="sum")
    wanted = (shape[0], *shape[2:])
    if tuple(targets.shape) != wanted:
        raise UserError(f"for class scores of shape {shape} the targets must be {wanted}, got {tuple(targets.shape)}")
    # not left to torch: on a GPU it would stop the process, and it takes -100 for no target at all
    low, high = (int(end) for end in targets.aminmax()) if targets.numel() else (0, 0)
    if not 0 <= low <= high < shape[1]:
        raise UserError(f"targets must lie in 0..{shape[1] - 1} for {shape[1]} class scores, got {low}..{high}")
    return F.cross_entropy(outputs / temperature, targets.long(), reduction="sum")


def checked(batches: Batches) -> Batches:
    """The same batches.

    Raises:
        UserError: one that is no pair of tensors of one length.
    """
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise UserError(f"a batch is a pair (inputs, targets), got a {type(batch).__name__}")
        inputs, targets = batch
        if not all(isinstance(part, Tensor) and part.ndim for part in batch):
            kinds = " and ".join(type(part).__name__ for part in batch)
            raise UserError(f"inputs and targets must be tensors with a first dimension of samples, got {kinds}")
        if len(inputs) != len(targets):
            raise UserError(f"a batch has {len(inputs)} inputs and {len(targets)} targets")
        yield inputs, targets


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
