"""GraSP: keep what the flow of gradients needs (Wang et al. 2020, algorithm 1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from autosparse.criteria.balanced import class_balanced
from autosparse.criteria.base import Batches
from autosparse.criteria.gradient import mean_derivative, mean_gradient
from autosparse.criteria.loss import CrossEntropy, loss_of
from autosparse.criteria.rounds import check_repeatable
from autosparse.criteria.scored import Scored
from autosparse.pruning import Mask


@dataclass(frozen=True)
class GraSP:
    """θ ⊙ Hg, g the gradient and H the Hessian of the mean loss, its logits divided by `temperature`.

    Removing a weight changes gᵀg by -2 θ Hg to first order, so what is kept are the highest θ ⊙ Hg: those without which
    the gradient would flow less. (Wang et al. score -θ ⊙ Hg and remove the highest; the paper this package is about
    writes -θ ⊙ Hg and "remove the lowest", which is the wrong way round.)

    Looks at the first `per_class` samples of each class among all batches (ten, as Wang et al. for CIFAR), see
    `class_balanced`; at the batches as they are where targets are no class of a sample, such as tokens or shares, or
    where the loss is another than the cross-entropy, which then has no temperature either. Attention is computed by
    its formula, which can be differentiated twice. Costs two forward passes, a backward pass and a backward pass
    through it over each.
    """

    per_class: int = 10
    temperature: float = 200.0
    batch_norm: str = "batch"

    def __call__(self, model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
        layout, batches = mask.layout, self._balanced(batches)
        with sdpa_kernel(SDPBackend.MATH):
            direction = mean_gradient(model, layout, batches, self.batch_norm, self.temperature)
            parts = layout.unflatten(direction)
            along = [parts[name].to(weight.dtype) for name, weight in layout.weights(model).items()]

            def product(loss: Tensor, weights: list[nn.Parameter]) -> Sequence[Tensor | None]:
                first = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
                used = [(g, v) for g, v in zip(first, along, strict=True) if g is not None and g.requires_grad]
                if not used:
                    return [None if g is None else torch.zeros_like(g) for g in first]
                gradients, directions = zip(*used, strict=True)
                return torch.autograd.grad(gradients, weights, directions, allow_unused=True)

            scores = mean_derivative(
                model, layout, batches, product, "Hessian times gradient", self.temperature, self.batch_norm
            )
        return scores.mul_(layout.flatten(layout.weights(model)))

    def _balanced(self, batches: Batches) -> Batches:
        """As many of each class, with the same loss; all batches where there are no such classes."""
        loss = loss_of(batches)
        if isinstance(loss, CrossEntropy):
            balanced = class_balanced(batches, self.per_class, loss.ignore_index)
            if balanced is not None:
                return Scored(balanced, loss)
        check_repeatable(batches)
        return batches
