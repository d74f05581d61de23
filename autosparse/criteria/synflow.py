"""SynFlow: synaptic flow, without data (Tanaka et al. 2020, eq. 3)."""

import torch
from torch import Tensor, nn

from autosparse.criteria.contract import Batches
from autosparse.criteria.flow import first_shape, flow, in_double
from autosparse.errors import UserError
from autosparse.pruning import Mask

_HINT = "an activation that saturates, such as a sigmoid, lets nothing pass"


def synflow(model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
    """|θ| ⊙ ∂R/∂|θ|, R the sum of the outputs for an input of ones; in units of the largest.

    All weights, biases and statistics by their absolute values, batch norm and dropout in evaluation mode, in float64,
    as products over many layers leave the range of float32. Looks at no batch but for the shape of an input; costs a
    forward and a backward pass of one sample in float64. One shot it is poor; it is meant for 100 `Rounds`.

    Raises:
        UserError: R is not finite, or nothing flows from the input through a layer to the outputs (names the layer).
    """
    layout = mask.layout
    state = {name: tensor.abs_() for name, tensor in in_double(model).items()}
    gradients = flow("synflow", model, layout, state, first_shape(batches))
    products = {name: gradient.mul_(state.pop(name).detach()) for name, gradient in gradients.items()}
    largest = max(product.amax() for product in products.values()).clamp_min(torch.finfo(torch.float64).tiny)
    scores = torch.empty(layout.size, device=mask.kept.device)
    parts = layout.unflatten(scores)
    for name, product in products.items():
        parts[name].copy_(product.div_(largest))
    if mask.count == layout.size:  # later rounds may cut a layer off
        for name, part in parts.items():
            if not part.any():
                raise UserError(
                    f"synflow cannot prune this network: nothing flows through layer {name} to the outputs; {_HINT}"
                )
    return scores
