"""GraSP: keep what the flow of gradients needs (Wang et al. 2020, algorithm 1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autosparse.criteria.balanced import class_balanced
from autosparse.criteria.base import Batches
from autosparse.criteria.gradient import mean_derivative, mean_gradient
from autosparse.pruning import Mask


@dataclass(frozen=True)
class GraSP:
    """θ ⊙ Hg, g the gradient and H the Hessian of the mean loss, its logits divided by `temperature`.

    Removing a weight changes gᵀg by -2 θ Hg to first order, so what is kept are the highest θ ⊙ Hg: those without which
    the gradient would flow less. (Wang et al. score -θ ⊙ Hg and remove the highest; the paper this package is about
    writes -θ ⊙ Hg and "remove the lowest", which is the wrong way round.)

    Looks at the first `per_class` samples of each class among all batches (ten, as Wang et al. for CIFAR), see
    `class_balanced`; costs two forward passes, a backward pass and a backward pass through it over each.
    """

    per_class: int = 10
    temperature: float = 200.0

    def __call__(self, model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
        layout = mask.layout
        balanced = class_balanced(batches, self.per_class)
        direction = mean_gradient(model, layout, balanced, temperature=self.temperature)
        parts = layout.unflatten(direction)
        along = [parts[name].to(weight.dtype) for name, weight in layout.weights(model).items()]

        def product(loss: Tensor, weights: list[nn.Parameter]) -> Sequence[Tensor | None]:
            first = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
            used = [(g, v) for g, v in zip(first, along, strict=True) if g is not None and g.requires_grad]
            if not used:
                return first
            gradients, directions = zip(*used, strict=True)
            return torch.autograd.grad(gradients, weights, directions, allow_unused=True)

        scores = mean_derivative(model, layout, balanced, product, "Hessian times gradient", self.temperature)
        return scores.mul_(layout.flatten(layout.weights(model)))
