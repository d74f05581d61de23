"""The default loss of criteria, cross-entropy, and the outputs and targets that it takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from autosparse.errors import UserError

Loss = Callable[[nn.Module, Any], Tensor]
"""(model, batch) -> the mean loss of the batch, a tensor of one number."""
_OWN = "for another loss give loss=, a function (model, batch) -> the mean loss of the batch"


@dataclass(frozen=True)
class CrossEntropy:
    """The default loss, of batches (inputs, targets).

    The network's outputs are class scores, floating point (B, classes), (B, classes, ...) or (B, ..., classes), or
    have them as `.logits`. Targets are class indices of any integer dtype, (B,) or (B, ...), whose shape says where the
    classes are: in the second dimension where both fit, as torch has it. Or they are probabilities of the classes,
    floating point in the shape of the outputs, that sum to 1.

    Attributes:
        ignore_index: targets that do not count.
    """

    ignore_index: int = -100

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean over the targets that count."""
        loss, count = self.total(model, batch)
        if not count:
            raise UserError(f"all targets of a batch are {self.ignore_index}, which is ignored; {_OWN}")
        return loss / count

    def total(self, model: nn.Module, batch: Any, temperature: float = 1.0) -> tuple[Tensor, int]:
        """Return the sum over the targets that count, and their number; class scores are divided by `temperature`."""
        inputs, targets = pair(batch)
        scores, targets = _matching(class_scores(model(inputs)), targets)
        if targets.is_floating_point():
            count = targets.numel() // targets.shape[1]
        else:
            count, targets = self._check_indices(targets, scores.shape[1]), targets.long()
        loss = F.cross_entropy(scores / temperature, targets, reduction="sum", ignore_index=self.ignore_index)
        return loss, count

    def _check_indices(self, targets: Tensor, classes: int) -> int:
        """Return the number of targets that count. On a GPU, torch would stop the process at a target out of range."""
        counted = targets[targets != self.ignore_index]
        if not counted.numel():
            return 0
        low, high = (int(end) for end in counted.aminmax())
        if not 0 <= low <= high < classes:
            raise UserError(
                f"targets must lie in 0..{classes - 1} for {classes} class scores, got {low}..{high}; {_OWN}"
            )
        return counted.numel()


def pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Return a batch as (inputs, targets), tensors of one length."""
    parts = batch if isinstance(batch, tuple | list) else ()
    tensors = all(isinstance(part, Tensor) and part.ndim for part in parts)
    if len(parts) != 2 or not tensors or len(parts[0]) != len(parts[1]):
        given = f"({', '.join(map(_described, parts))})" if parts else f"a {type(batch).__name__}"
        raise UserError(f"a batch is a pair (inputs, targets) of tensors of one length, got {given}; {_OWN}")
    return parts[0], parts[1]


def check_loss(loss: object) -> Tensor:
    """Return the result of a loss as a scalar; refuse all but floating-point tensors of one number with a gradient."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        got = f"{tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise UserError(f"loss must return the mean loss of a batch, a tensor of one number; it returns {got}")
    if not loss.requires_grad:
        raise UserError("the loss has no gradient: the network's outputs are detached, or computed under no_grad")
    return loss.reshape(())


def batch_size(batch: Any) -> int:
    """Return the number of samples of a batch of any kind.

    It is the length of the first tensor of a tuple, list or mapping. A list of tensors of several lengths, or of
    mappings, is a list of samples, and so is any list within a batch. An object without a length is one sample.
    """
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    fields = list(batch.values()) if isinstance(batch, Mapping) else batch
    if not isinstance(fields, tuple | list):
        return len(fields) if hasattr(fields, "__len__") and not isinstance(fields, str | bytes) else 1
    lengths = [len(field) for field in fields if isinstance(field, Tensor) and field.ndim]
    ragged = len(lengths) == len(fields) and len({*lengths}) > 1
    if isinstance(batch, list) and (ragged or all(isinstance(sample, Mapping) for sample in batch)):
        return len(batch)
    if lengths:
        return lengths[0]
    inner = next((field for field in fields if isinstance(field, tuple | list | Mapping)), fields)
    return len(inner) if inner is fields or isinstance(inner, list) else batch_size(inner)


def class_scores(outputs: object) -> Tensor:
    """Return the outputs of a network if they are a tensor, or else their `.logits`."""
    scores = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(scores, Tensor):
        kind = type(outputs).__name__
        raise UserError(f"a network must return a tensor of class scores, this one returns a {kind}; {_OWN}")
    return scores


def _matching(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return class scores (B, classes, ...), and class indices (B, ...) or probabilities (B, classes, ...)."""
    if scores.ndim < 2 or not scores.is_floating_point():
        raise UserError(
            f"class scores are floating point (B, classes), this network returns {_described(scores)}; {_OWN}"
        )
    shape = tuple(scores.shape)
    for dim in dict.fromkeys((1, scores.ndim - 1)):
        moved = scores.movedim(dim, 1)
        if moved.shape[1] < 2:
            continue
        if targets.is_floating_point():
            fits = targets.shape == scores.shape and targets.ge(0.0).all()
            if fits and (targets.sum(dim) - 1.0).abs().le(1e-3).all():
                return moved, targets.movedim(dim, 1)
        elif targets.shape == moved.select(1, 0).shape:
            return moved, targets
    if shape[1] == 1:
        raise UserError(f"one class score, {shape}, has no cross-entropy; {_OWN}")
    wanted = " or ".join(f"{each}" for each in dict.fromkeys(((shape[0], *shape[2:]), shape[:-1])))
    raise UserError(
        f"for class scores of shape {shape} the targets must be class indices {wanted}, "
        f"or probabilities of the classes, {shape}, which sum to 1; got {_described(targets)}; {_OWN}"
    )


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
