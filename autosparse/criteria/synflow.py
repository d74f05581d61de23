"""SynFlow: synaptic flow, without data (Tanaka et al. 2020, eq. 3)."""

import torch
from torch import Tensor, nn

from autosparse.criteria.base import Scoring
from autosparse.criteria.double import Embedding
from autosparse.criteria.failures import why_nothing_passes
from autosparse.criteria.flow import absolute, call_with_ones, flow, in_double
from autosparse.criteria.network_call import Call
from autosparse.errors import UserError
from autosparse.pruning import Mask


def synflow(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
    """Return |θ| ⊙ ∂R/∂|θ|, R the sum of the outputs for an input of ones, divided by the largest.

    All weights, biases and statistics by their absolute values, batch norm and dropout in evaluation mode, in float64,
    as products over many layers leave the range of float32. If inputs are indices, their embeddings are ones.
    Normalization of a sample can reverse a flow; its absolute value is the score. Looks at no batch except for the
    first input; costs a forward and a backward pass of one sample in float64. One shot it is poor; it is meant for 100
    `Rounds`.

    Raises:
        UserError: R is not finite, or nothing flows from the input through a layer to the outputs (names the layer).
    """
    state = {name: absolute(tensor) for name, tensor in in_double(model).items()}
    call, embedding = call_with_ones("synflow", model, scoring, mask.kept.device)
    products = flow_products("synflow", model, mask, state, call, embedding)
    largest = max(product.amax() for product in products.values())
    scores = flat_scores(products, mask, dict.fromkeys(products, largest))
    if mask.count == mask.layout.size:  # Later rounds may cut a layer off.
        for name, part in mask.layout.unflatten(scores).items():
            if not part.any():
                why = why_nothing_passes(model, mask.layout)
                raise UserError(
                    f"synflow cannot prune this network: nothing flows through layer {name} to the outputs; {why}"
                )
    return scores


def flow_products(
    criterion: str,
    model: nn.Module,
    mask: Mask,
    state: dict[str, Tensor],
    call: Call,
    embedding: Embedding | None,
    *,
    complete: bool = True,
) -> dict[str, Tensor]:
    """Return |θ ∂R/∂θ| of each layer, float64; empties `state` of the weights."""
    gradients = flow(criterion, model, mask.layout, state, call, embedding, complete=complete)
    return {name: gradient.mul_(state.pop(name).detach()).abs_() for name, gradient in gradients.items()}


def flat_scores(products: dict[str, Tensor], mask: Mask, units: dict[str, Tensor]) -> Tensor:
    """Return float32 (P,), the products of each layer divided by its unit; empties `products`."""
    scores = torch.empty(mask.layout.size, dtype=torch.float32, device=mask.kept.device)
    for name, part in mask.layout.unflatten(scores).items():
        part.copy_(products.pop(name).div_(units[name].clamp_min(torch.finfo(torch.float64).tiny)))
    return scores
