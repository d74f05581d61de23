"""Callbacks of the training loop, and the baselines that change the mask; steps count over all epochs.

Checkpoints hold the mask, so a killed training resumes and ends with the same bits. Every process computes the same
mask, from the same weights and averaged gradients.
"""

import math
from typing import Any

import torch
from torch import nn

from autosparse.pruning import Layout, Mask, keep_top, keep_top_each


class Callback:
    """Called around every step of a training run; its state is saved in the checkpoints of the training.

    This class does nothing; subclasses override methods. Every process has its own callback, and all processes must
    return the same mask.
    """

    def start(self, model: nn.Module, mask: Mask) -> Mask:
        """Return the mask to hold from the first step on; called after `load_state_dict` when a run resumes."""
        return mask

    def gradients(self, step: int, model: nn.Module) -> None:
        """Read the gradients in every parameter's `grad`, before clipping; removed weights have one, too.

        Args:
            step: number of the step, from 1, over all epochs.
            model: the model, not its wrapper.
        """

    def stepped(self, step: int, model: nn.Module, mask: Mask, optimizer: torch.optim.Optimizer) -> Mask:
        """Return the mask to hold from here on; called after the optimizer's step."""
        return mask

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""


class MaskUpdateCallback(Callback):
    """A callback that changes the mask.

    Attributes:
        mask: the current mask, set when the training starts.
    """

    mask: Mask

    def __init__(self) -> None:
        self._saved: torch.Tensor | None = None

    def start(self, model: nn.Module, mask: Mask) -> Mask:
        self.mask = mask if self._saved is None else Mask(mask.layout, self._saved.to(mask.kept.device))
        return self.mask

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.mask.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._saved = state["kept"]


class GradualMagnitude(MaskUpdateCallback):
    """Gradual magnitude pruning (Zhu & Gupta 2017).

    The weights of smallest magnitude are removed. At step t the fraction of weights still to be removed is
    ((end - t) / (end - begin))^3.

    Args:
        k: number of weights kept at the end.
        steps: number of steps of the training.
        first, last: fractions of the steps at which pruning begins and ends.
        every: steps between two prunings; fewer if there would otherwise be fewer than ten.
    """

    def __init__(self, k: int, steps: int, first: float = 0.1, last: float = 0.7, every: int = 20) -> None:
        super().__init__()
        self.k, self.start_count = k, 0
        self.begin = max(1, round(first * steps))
        self.end = max(self.begin, round(last * steps))
        self.every = _interval(every, self.end - self.begin)

    def start(self, model: nn.Module, mask: Mask) -> Mask:
        self.start_count = mask.count
        return super().start(model, mask)

    def kept_at(self, step: int) -> int:
        """Return how many weights are kept after the pruning of a step from `begin` to `end`."""
        remaining = (self.end - step) / max(1, self.end - self.begin)
        return self.k + round((self.start_count - self.k) * remaining**3)

    def stepped(self, step: int, model: nn.Module, mask: Mask, optimizer: torch.optim.Optimizer) -> Mask:
        due = self.begin <= step < self.end and (step - self.begin) % self.every == 0
        if due or step == self.end:
            self.mask = keep_top(_magnitudes(model, mask.layout), self.kept_at(step), mask)
        return self.mask


class RigL(MaskUpdateCallback):
    """RigL (Evci et al. 2020): replaces the weights of smallest magnitude by those with the largest gradients.

    The first mask is random, with the densities of Erdős-Rényi-Kernel. Each layer keeps its number of weights. As in
    the paper's Algorithm 1, a dropped weight may be grown again in the same update, and then keeps its value and
    momentum. All other grown weights start at 0 without momentum. Under Adam, which corrects the bias of its moments by
    the number of its steps, their moments start as if all gradients had been the gradient at growth. From moments of
    zero, the first update would be about three times too large (arXiv 2606.00888).

    Args:
        steps: number of steps of the training.
        every: steps between two updates; fewer if there would otherwise be fewer than ten.
        alpha: fraction of each layer that the first updates replace; it falls to 0 along a cosine.
        last: fraction of the steps after which the mask stays fixed.
    """

    def __init__(self, steps: int, every: int = 50, alpha: float = 0.3, last: float = 0.75) -> None:
        super().__init__()
        self.every, self.alpha, self.end = _interval(every, int(last * steps)), alpha, last * steps
        self._gradients: torch.Tensor | None = None

    def fraction(self, step: int) -> float:
        """Return the fraction of each layer's weights that the update of a step replaces."""
        return self.alpha / 2 * (1 + math.cos(math.pi * step / self.end))

    def gradients(self, step: int, model: nn.Module) -> None:
        if step % self.every == 0 and step < self.end:
            self._gradients = _gradients(model, self.mask.layout)

    def stepped(self, step: int, model: nn.Module, mask: Mask, optimizer: torch.optim.Optimizer) -> Mask:
        if self._gradients is None:
            return self.mask
        counts = [int(kept.count_nonzero()) for kept in mask.layout.unflatten(mask.kept).values()]
        moved = [int(self.fraction(step) * count) for count in counts]
        stay = [count - move for count, move in zip(counts, moved, strict=True)]
        stayed = keep_top_each(_magnitudes(model, mask.layout), stay, mask).kept
        grown = keep_top_each(self._gradients.abs(), moved, Mask(mask.layout, ~stayed)).kept
        _start_optimizer_state(model, Mask(mask.layout, grown & ~mask.kept), self._gradients, optimizer)
        self._gradients = None
        self.mask = Mask(mask.layout, stayed | grown)
        return self.mask


def _interval(every: int, steps: int) -> int:
    """Return the steps between two updates, at least ten of which fit into `steps`, if there are ten."""
    return max(1, min(every, steps // 10))


def _magnitudes(model: nn.Module, layout: Layout) -> torch.Tensor:
    """Return the magnitude of every prunable weight, float32 (P,)."""
    return layout.flatten(layout.weights(model)).detach().float().abs()


def _gradients(model: nn.Module, layout: Layout) -> torch.Tensor:
    """Return the gradient of every prunable weight, float32 (P,); 0 without a gradient."""
    weights = layout.weights(model)
    gradients = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad for name, weight in weights.items()
    }
    return layout.flatten(gradients).float()


@torch.no_grad()
def _start_optimizer_state(
    model: nn.Module, weights: Mask, gradients: torch.Tensor, optimizer: torch.optim.Optimizer
) -> None:
    """Set the optimizer's state of some weights as if each had had its gradient in all steps; momentum to zero."""
    parts, gradients_of = weights.layout.unflatten(weights.kept), weights.layout.unflatten(gradients)
    betas: dict[int, Any] = {}  # by the id of the weight
    for group in optimizer.param_groups:
        betas |= {id(weight): group.get("betas") for weight in group["params"]}
    for name, weight in weights.layout.weights(model).items():
        state, new = optimizer.state.get(weight, {}), parts[name]
        for key, value in state.items():
            if not isinstance(value, torch.Tensor) or value.shape != weight.shape:
                continue
            if key in ("exp_avg", "exp_avg_sq"):
                power = 1 if key == "exp_avg" else 2
                correction = 1 - betas[id(weight)][power - 1] ** state["step"].item()
                value[new] = (correction * gradients_of[name][new] ** power).to(value.dtype)
            else:
                value.masked_fill_(new, 0.0)
