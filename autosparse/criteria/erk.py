"""Random with the layer densities of Erdős-Rényi-Kernel (Mocanu et al. 2018; Evci et al. 2020, section 3)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autosparse.criteria.base import Batches, Criterion
from autosparse.criteria.random import UniformRandom
from autosparse.pruning import Layout, Mask, keep_top_each


@dataclass(frozen=True)
class RandomERK:
    """Uniform scores within a layer, and as many weights of each as `erk_counts` says. Looks at no batch."""

    seed: int

    def at(self, k: int) -> Criterion:
        """The criterion that chooses `k` weights."""

        def score(model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
            scores = UniformRandom(self.seed)(model, mask, batches)
            alive = [int(kept.sum()) for kept in mask.layout.unflatten(mask.kept).values()]
            chosen = keep_top_each(scores, erk_counts(mask.layout, k, alive), mask)
            return scores.sub_((~chosen.kept).float())  # [0, 1) where chosen, else [-1, 0)

        return score


def erk_counts(layout: Layout, k: int, capacities: list[int]) -> list[int]:
    """How many weights Erdős-Rényi-Kernel keeps of each layer; k in all.

    The density of a layer is min(1, ε (n_out + n_in + Σ kernel) / (n_out n_in Π kernel)), that is, its count is
    min(capacity, ε Σ shape). The ε that keeps k is exact: the count of the layers below their capacity grows
    linearly, so it is found in one pass over the layers in the order in which they fill up. Fractions are rounded
    so that the counts add up to k, the largest first.

    Args:
        layout: the layers.
        k: how many to keep.
        capacities: the most that each layer can keep: its size, or what is left of it.
    """
    shares = [sum(layer.shape) for layer in layout.layers]
    counts = [float(capacity) for capacity in capacities]
    left, weight = k, sum(shares)
    order = sorted(range(len(shares)), key=lambda layer: capacities[layer] / shares[layer])
    for position, first in enumerate(order):  # the next to fill up
        if left * shares[first] <= capacities[first] * weight:
            for layer in order[position:]:
                counts[layer] = left * shares[layer] / weight
            break
        left -= capacities[first]
        weight -= shares[first]
    return _rounded(counts, k)


def _rounded(counts: list[float], k: int) -> list[int]:
    """Integers next to the given numbers that add up to k."""
    exact = torch.tensor(counts, dtype=torch.float64, device="cpu")
    floors = exact.floor().long()
    remainders = exact - floors
    floors[remainders.argsort(descending=True, stable=True)[: k - int(floors.sum())]] += 1
    return [int(count) for count in floors]
