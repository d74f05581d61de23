"""GraSP: keep what the flow of gradients needs (Wang et al. 2020, algorithm 1)."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from autosparse.criteria.base import Scoring
from autosparse.criteria.gradient import mean_derivative, mean_gradient
from autosparse.criteria.loss import CrossEntropy, pair
from autosparse.distributed import gather, rank_and_size
from autosparse.errors import UserError
from autosparse.pruning import Mask

_BATCH = 64  # largest number of samples in a batch: bounds the memory of a backward pass through a backward pass


def grasp(
    model: nn.Module,
    mask: Mask,
    scoring: Scoring,
    *,
    per_class: int = 10,
    temperature: float = 200.0,
    batch_norm: str = "batch",
) -> Tensor:
    """Return θ ⊙ Hg, g the gradient and H the Hessian of the mean loss, its logits divided by `temperature`.

    Removing a weight changes gᵀg by -2 θ Hg to first order, so the highest θ ⊙ Hg are kept: without them the gradient
    would flow less. (Wang et al. score -θ ⊙ Hg and remove the highest; the paper this package is about writes -θ ⊙ Hg
    and "remove the lowest", which is the wrong way round.)

    Looks at the first `per_class` samples of each class among all batches (ten, as Wang et al. for CIFAR), see
    `class_balanced`. It looks at all batches if targets are not one class per sample, such as tokens or soft labels,
    or if the loss is not the cross-entropy; another loss has no temperature either. Attention is computed by its
    formula, which can be differentiated twice. Costs two forward passes, a backward pass and a backward pass through it
    over each batch.
    """
    layout = mask.layout
    if isinstance(scoring.loss, CrossEntropy):
        balanced = class_balanced(scoring.batches, per_class, scoring.loss.ignore_index)
        scoring = scoring if balanced is None else replace(scoring, batches=balanced)
    with sdpa_kernel(SDPBackend.MATH):
        direction = mean_gradient(model, layout, scoring, batch_norm, temperature)
        parts = layout.unflatten(direction)
        along = [parts[name].to(weight.dtype) for name, weight in layout.weights(model).items()]

        def product(loss: Tensor, weights: list[nn.Parameter]) -> Sequence[Tensor | None]:
            first = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
            used = [(g, v) for g, v in zip(first, along, strict=True) if g is not None and g.requires_grad]
            if not used:
                return [None if g is None else torch.zeros_like(g) for g in first]
            gradients, directions = zip(*used, strict=True)
            return torch.autograd.grad(gradients, weights, directions, allow_unused=True)

        scores = mean_derivative(model, layout, scoring, product, "Hessian times gradient", temperature, batch_norm)
    return scores.mul_(layout.flatten(layout.weights(model)))


def class_balanced(
    batches: Iterable[Any], per_class: int, ignore_index: int = -100
) -> list[tuple[Tensor, Tensor]] | None:
    """Return this process's batches of the first `per_class` samples of each class; fewer of each if a class has fewer.

    Samples come in the order of the batches, one of each class after the other, so that every batch is balanced too, in
    batches of equal size: the 100 of ten classes in two, as Wang et al. do. Samples and batches are the same for any
    number of processes if whole batches are dealt to the processes in turn, as `Data.scoring` does. Samples of the
    class `ignore_index` are skipped. None if targets are not class indices (B,), or samples differ in shape.
    """
    rank, world = rank_and_size()
    samples_of: dict[int, list[tuple[int, Tensor]]] = {}
    has_classes, shapes = True, set[torch.Size]()
    for step, batch in enumerate(batches):
        inputs, targets = pair(batch)
        shapes.add(inputs.shape[1:])
        if targets.ndim != 1 or targets.is_floating_point():
            has_classes = False
            break
        for index, label in enumerate(targets.tolist()):
            samples = samples_of.setdefault(label, [])
            if label != ignore_index and len(samples) < per_class:
                samples.append((step * world + rank, inputs[index].to("cpu", copy=True)))  # not a view of the batch
    if not all(gather(has_classes)) or len(set().union(*gather(shapes))) > 1:
        return None
    gathered = [(label, *sample) for part in gather(samples_of) for label, rows in part.items() for sample in rows]
    gathered.sort(key=lambda entry: entry[:2])  # stable: within a batch samples keep their order
    classes = {label: [x for _, _, x in group] for label, group in groupby(gathered, key=lambda entry: entry[0])}
    if not classes:
        raise UserError("the gradient needs at least one batch; none was given")
    count = min(per_class, *map(len, classes.values()))
    inputs = torch.stack([samples[k] for k in range(count) for samples in classes.values()])
    labels = torch.tensor(list(classes) * count, device="cpu")
    parts = -(-len(labels) // _BATCH)
    return list(zip(inputs.tensor_split(parts), labels.tensor_split(parts), strict=True))[rank::world]
