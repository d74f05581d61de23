"""Draws as many samples of each class."""

from itertools import groupby

import torch
from torch import Tensor

from autosparse.criteria.base import Batches
from autosparse.criteria.loss import pair
from autosparse.distributed import gather, rank_and_size
from autosparse.errors import UserError

_BATCH = 64  # the most samples taken together: what bounds the memory of a backward pass through a backward pass


def class_balanced(batches: Batches, per_class: int, ignore_index: int = -100) -> list[tuple[Tensor, Tensor]] | None:
    """The first `per_class` samples of each class in the order of the batches; fewer of each if a class has fewer.

    One of each class after the other, so that every batch is balanced too, in batches of equal size: the 100 of ten
    classes in two, as Wang et al. do. The same samples and batches for any number of processes, if whole batches are
    dealt to the processes in turn, as `Data.scoring` does; this process's part of them. Samples whose class is
    `ignore_index` are passed over. None where targets are no class indices (B,).

    Raises:
        UserError: no samples, or a batch that is no pair of tensors.
    """
    rank, world = rank_and_size()
    found: dict[int, list[tuple[int, Tensor]]] = {}
    has_classes = True
    for step, batch in enumerate(batches):
        inputs, targets = pair(batch)
        if targets.ndim != 1 or targets.is_floating_point():
            has_classes = False
            break
        for index, label in enumerate(targets.tolist()):
            if label == ignore_index:
                continue
            samples = found.setdefault(label, [])
            if len(samples) < per_class:
                samples.append((step * world + rank, inputs[index].to("cpu", copy=True)))  # not a view of the batch
    if not all(gather(has_classes)):
        return None
    everyone = [(label, *sample) for part in gather(found) for label, samples in part.items() for sample in samples]
    everyone.sort(key=lambda entry: entry[:2])  # stable: within a batch they are in order
    classes = {label: [x for _, _, x in group] for label, group in groupby(everyone, key=lambda entry: entry[0])}
    if not classes:
        raise UserError("the gradient needs at least one batch; none was given")
    count = min(per_class, *map(len, classes.values()))
    inputs = torch.stack([samples[k] for k in range(count) for samples in classes.values()])
    labels = torch.tensor(list(classes) * count, device="cpu")
    parts = -(-len(labels) // _BATCH)
    return list(zip(inputs.tensor_split(parts), labels.tensor_split(parts), strict=True))[rank::world]
