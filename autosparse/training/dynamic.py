"""Rivals that choose their mask while the one training runs, as its callbacks; both count steps over all epochs.

A mask is saved with every checkpoint, and all randomness is the seed's, so that a killed training ends with the same
bits. Every process computes the same from the same weights and averaged gradients.
"""

import math
from typing import Any

import torch
from torch import nn

from autosparse.pruning import Layout, Mask, keep_top, keep_top_each
from autosparse.training.callback import Callback


class Changing(Callback):
    """A callback that changes the mask.

    Attributes:
        mask: the newest one; there is one from the start of the training on.
    """

    mask: Mask

    def __init__(self) -> None:
        self._saved: torch.Tensor | None = None

    def start(self, model: nn.Module, mask: Mask) -> Mask:
        self.mask = mask if self._saved is None else Mask(mask.layout, self._saved)
        return self.mask

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.mask.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._saved = state["kept"]


class GradualMagnitude(Changing):
    """Gradual magnitude pruning (Zhu & Gupta 2017): the smallest weights go, at a sparsity that rises as a cube.

    Args:
        k: how many weights are left in the end.
        steps: of the whole training.
        first, last: the shares of the steps between which it prunes.
        every: steps between two prunings.
    """

    def __init__(self, k: int, steps: int, first: float = 0.1, last: float = 0.7, every: int = 20) -> None:
        super().__init__()
        self.k, self.every = k, every
        self.begin = max(1, round(first * steps))
        self.end = max(self.begin, round(last * steps))

    def kept_at(self, step: int, size: int) -> int:
        """How many of `size` weights are left after the pruning of a step, `begin` to `end`."""
        ahead = (self.end - step) / max(1, self.end - self.begin)
        return self.k + round((size - self.k) * ahead**3)

    def stepped(self, step: int, model: nn.Module, mask: Mask, optimizer: torch.optim.Optimizer) -> Mask:
        due = self.begin <= step < self.end and (step - self.begin) % self.every == 0
        if due or step == self.end:
            self.mask = keep_top(_magnitudes(model, mask.layout), self.kept_at(step, mask.layout.size), mask)
        return self.mask


class RigL(Changing):
    """RigL (Evci et al. 2020): a mask whose smallest weights give way to those with the largest gradients.

    It starts from a random mask with the densities of Erdős-Rényi-Kernel; layers keep their counts. As in the paper's
    Algorithm 1, what was dropped may be grown at once; it goes on as it was. All else that is grown starts at 0,
    without momentum.

    Args:
        steps: of the whole training.
        every: steps between two updates.
        alpha: the share of each layer that the first updates replace; it falls to 0 along a cosine.
        last: the share of the steps after which the mask stays.
    """

    def __init__(self, steps: int, every: int = 50, alpha: float = 0.3, last: float = 0.75) -> None:
        super().__init__()
        self.every, self.alpha, self.end = every, alpha, last * steps
        self._slopes: torch.Tensor | None = None

    def share(self, step: int) -> float:
        """The share of each layer's weights that the update of a step replaces."""
        return self.alpha / 2 * (1 + math.cos(math.pi * step / self.end))

    def gradients(self, step: int, model: nn.Module) -> None:
        if step % self.every == 0 and step < self.end:
            self._slopes = _slopes(model, self.mask.layout)

    def stepped(self, step: int, model: nn.Module, mask: Mask, optimizer: torch.optim.Optimizer) -> Mask:
        if self._slopes is None:
            return self.mask
        counts = [int(kept.count_nonzero()) for kept in mask.layout.unflatten(mask.kept).values()]
        moved = [int(self.share(step) * count) for count in counts]
        stay = [count - move for count, move in zip(counts, moved, strict=True)]
        stayed = keep_top_each(_magnitudes(model, mask.layout), stay, mask).kept
        grown = keep_top_each(self._slopes, moved, Mask(mask.layout, ~stayed)).kept
        self._slopes = None
        _forget(model, Mask(mask.layout, grown & ~mask.kept), optimizer)
        self.mask = Mask(mask.layout, stayed | grown)
        return self.mask


def _magnitudes(model: nn.Module, layout: Layout) -> torch.Tensor:
    """The magnitude of every prunable weight, float32 (P,)."""
    return layout.flatten(layout.weights(model)).detach().float().abs()


def _slopes(model: nn.Module, layout: Layout) -> torch.Tensor:
    """The magnitude of every prunable weight's gradient, float32 (P,); 0 where there is none."""
    weights = layout.weights(model)
    found = {name: torch.zeros_like(each) if each.grad is None else each.grad for name, each in weights.items()}
    return layout.flatten(found).float().abs()


@torch.no_grad()
def _forget(model: nn.Module, which: Mask, optimizer: torch.optim.Optimizer) -> None:
    """Set to zero what the optimizer remembers of some weights."""
    parts = which.layout.unflatten(which.kept)
    for name, weight in which.layout.weights(model).items():
        for value in optimizer.state.get(weight, {}).values():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                value.masked_fill_(parts[name], 0.0)
