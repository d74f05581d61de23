"""Criteria without data: magnitude, and random masks, uniform or with the layer densities of Erdős-Rényi-Kernel.

Magnitude: Han et al. 2015; the criterion of the lottery ticket hypothesis (Frankle & Carbin 2019). Erdős-Rényi-Kernel:
Mocanu et al. 2018; Evci et al. 2020, section 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autosparse.criteria.base import Scoring
from autosparse.pruning import Layout, Mask, keep_top_each
from autosparse.seeds import stream


def magnitude(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
    """Return |θ|. Looks at no batch; costs a pass over the weights."""
    return mask.layout.flatten(mask.layout.weights(model)).abs().float()


def random(model: nn.Module, mask: Mask, scoring: Scoring, *, seed: int = 0) -> Tensor:
    """Return scores drawn uniformly from [0, 1), a function of the seed alone. Looks at no batch."""
    generator = torch.Generator().manual_seed(stream("random criterion", seed))
    scores = torch.rand(mask.layout.size, dtype=torch.float32, device="cpu", generator=generator)
    return scores.to(mask.kept.device)


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
    so that the counts add up to k, the largest first. `capacities` are the numbers of weights of each layer that are
    not removed yet.
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
    exact = torch.tensor(counts, dtype=torch.float64, device="cpu")
    rounded = exact.floor().long()
    rounded[(exact - rounded).argsort(descending=True, stable=True)[: k - int(rounded.sum())]] += 1
    return rounded.tolist()
