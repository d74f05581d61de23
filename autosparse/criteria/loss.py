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
        """Return the mean over the targets that count.

        Raises:
            UserError: see `total`; or no target counts.
        """
        loss, count = self.total(model, batch)
        if not count:
            raise UserError(f"all targets of a batch are {self.ignore_index}, which is ignored; {_OWN}")
        return loss / count

    def total(self, model: nn.Module, batch: Any, temperature: float = 1.0) -> tuple[Tensor, int]:
        """Return the sum over the targets that count, and their number.

        Args:
            model: network that maps inputs to class scores.
            batch: (inputs, targets), on the model's device.
            temperature: divisor of the class scores.

        Raises:
            UserError: the batch, outputs or targets have no cross-entropy, or there is no score for a class.
        """
        inputs, targets = pair(batch)
        scores = _class_scores(model(inputs))
        if targets.is_floating_point():
            scores, targets = _matching_probabilities(scores, targets)
            count = targets.numel() // targets.shape[1]
        else:
            scores = _classes_second(scores, targets)
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
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        what = f"{len(batch)} parts" if isinstance(batch, tuple | list) else f"a {type(batch).__name__}"
        raise UserError(f"a batch is a pair (inputs, targets), got {what}; {_OWN}")
    inputs, targets = batch
    if not all(isinstance(part, Tensor) and part.ndim for part in batch):
        kinds = " and ".join(type(part).__name__ for part in batch)
        raise UserError(f"inputs and targets must be tensors with a first dimension of samples, got {kinds}; {_OWN}")
    if len(inputs) != len(targets):
        raise UserError(f"a batch has {len(inputs)} inputs and {len(targets)} targets; {_OWN}")
    return inputs, targets


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


def _class_scores(outputs: object) -> Tensor:
    scores = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(scores, Tensor):
        kind = type(outputs).__name__
        raise UserError(f"a network must return a tensor of class scores, this one returns a {kind}; {_OWN}")
    if scores.ndim < 2 or not scores.is_floating_point():
        raise UserError(
            f"class scores are floating point (B, classes), this network returns {_described(scores)}; {_OWN}"
        )
    return scores


def _classes_second(scores: Tensor, targets: Tensor) -> Tensor:
    """Return class scores (B, classes, ...) for class indices (B, ...)."""
    shape = tuple(scores.shape)
    second, last = (shape[0], *shape[2:]), shape[:-1]
    if tuple(targets.shape) not in (second, last):
        wanted = f"{second} or {last}" if second != last else f"{second}"
        raise UserError(
            f"for class scores of shape {shape} the targets must be {wanted}, got {_described(targets)}; {_OWN}"
        )
    if tuple(targets.shape) != second:
        scores = scores.movedim(-1, 1)
    if scores.shape[1] < 2:
        raise UserError(f"one class score, {shape}, has no cross-entropy; {_OWN}")
    return scores


def _matching_probabilities(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return class scores and probabilities of classes, both (B, classes, ...)."""
    shape = tuple(scores.shape)
    if shape[1:] == (1,):
        raise UserError(f"one class score, {shape}, has no cross-entropy; {_OWN}")
    if tuple(targets.shape) != shape:
        raise UserError(
            f"targets must be class indices, or probabilities of shape {shape}; got {_described(targets)}; {_OWN}"
        )
    for dim in dict.fromkeys((1, scores.ndim - 1)):
        if shape[dim] > 1 and (targets.sum(dim) - 1.0).abs().le(1e-3).all() and targets.ge(0.0).all():
            return scores.movedim(dim, 1), targets.movedim(dim, 1)
    raise UserError(f"floating-point targets must be probabilities of the classes, which sum to 1; {_OWN}")


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
