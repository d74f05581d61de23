"""Random with the layer densities of Erdős-Rényi-Kernel (Mocanu et al. 2018; Evci et al. 2020, section 3)."""

from dataclasses import dataclass

import torch
from torch import nn

from autosparse.criteria.base import Scoring
from autosparse.criteria.random import random
from autosparse.pruning import Layout, Mask, keep_top_each


@dataclass(frozen=True)
class RandomERK:
    """As many weights of each layer as `erk_counts` says, drawn uniformly. Looks at no batch."""

    seed: int

    def choose(self, model: nn.Module, mask: Mask, scoring: Scoring, k: int) -> Mask:
        """Return a mask of `k` weights; see `select`."""
        capacities = [int(kept.sum()) for kept in mask.layout.unflatten(mask.kept).values()]
        scores = random(model, mask, scoring, seed=self.seed)
        return keep_top_each(scores, erk_counts(mask.layout, k, capacities), mask)


def erk_counts(layout: Layout, k: int, capacities: list[int]) -> list[int]:
    """Return the number of weights that Erdős-Rényi-Kernel keeps of each layer; k in all.

    The density of a layer is min(1, ε (n_out + n_in + Σ kernel) / (n_out n_in Π kernel)), that is, its count is
    min(capacity, ε Σ shape). The ε that keeps k is exact: the count of the layers below their capacity grows
    linearly, so one pass over the layers in the order in which they fill up computes it. Fractions are rounded
    so that the counts add up to k, the largest first.

    Args:
        layout: the layers.
        k: number of weights to keep.
        capacities: largest number of weights that each layer can keep: those of it that are not removed.
    """
    shares = [sum(layer.shape) for layer in layout.layers]
    counts = [float(capacity) for capacity in capacities]
    rest, weight = k, sum(shares)
    order = sorted(range(len(shares)), key=lambda layer: capacities[layer] / shares[layer])
    for position, first in enumerate(order):  # the next layer to fill up
        if rest * shares[first] <= capacities[first] * weight:
            for layer in order[position:]:
                counts[layer] = rest * shares[layer] / weight
            break
        rest -= capacities[first]
        weight -= shares[first]
    return _rounded(counts, k)


def _rounded(counts: list[float], k: int) -> list[int]:
    """Return integers next to the given numbers that add up to k."""
    exact = torch.tensor(counts, dtype=torch.float64, device="cpu")
    floors = exact.floor().long()
    remainders = exact - floors
    floors[remainders.argsort(descending=True, stable=True)[: k - int(floors.sum())]] += 1
    return [int(count) for count in floors]
