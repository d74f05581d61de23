"""SynFlow: synaptic flow, without data (Tanaka et al. 2020, eq. 3), and with data."""

import torch
from torch import Tensor, nn

from autosparse.criteria.base import Batches
from autosparse.criteria.deviation import deviation
from autosparse.criteria.double import Embedding
from autosparse.criteria.failures import why_nothing_passes
from autosparse.criteria.feeding import Call
from autosparse.criteria.flow import absolute, flow, in_double, ones_of
from autosparse.errors import UserError
from autosparse.pruning import Mask

_FAINT = 1e-100  # what reaches an activation after many layers is still small
_LOST = 1e-30  # float32 hardly reaches further


def synflow(model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
    """|θ| ⊙ ∂R/∂|θ|, R the sum of the outputs for an input of ones; in units of the largest.

    All weights, biases and statistics by their absolute values, batch norm and dropout in evaluation mode, in float64,
    as products over many layers leave the range of float32. Where inputs are indices, ones are what their embedding
    gives. Normalization of a sample can turn a flow round; its size is what is given. Looks at no batch except for the
    first input; costs a forward and a backward pass of one sample in float64. One shot it is poor; it is meant for 100
    `Rounds`.

    Raises:
        UserError: R is not finite, or nothing flows from the input through a layer to the outputs (names the layer).
    """
    state = {name: absolute(tensor) for name, tensor in in_double(model).items()}
    call, embedding = ones_of("synflow", model, batches, mask.kept.device)
    products = _products("synflow", model, mask, state, call, embedding)
    products = {name: product.abs_() for name, product in products.items()}
    scores = _flat(products, mask, dict.fromkeys(products, max(product.amax() for product in products.values())))
    if mask.count == mask.layout.size:  # later rounds may cut a layer off
        for name, part in mask.layout.unflatten(scores).items():
            if not part.any():
                why = why_nothing_passes(model, mask.layout)
                raise UserError(
                    f"synflow cannot prune this network: nothing flows through layer {name} to the outputs; {why}"
                )
    return scores


def dataflow(model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
    """SynFlow of an input that is not ones but the standard deviation of the data, element by element.

    An element that is the same in every input, such as the corner of a digit's image, then brings nothing into the
    network. Where inputs are indices, the deviations are of what embeddings give for them. Biases and running means are
    left out and the input is made very faint, so that activations that are 0 at 0 do not saturate. What others, such as
    a sigmoid, add of their own drowns what comes before them: where a layer's flows are lost to the largest of all,
    they are in units of the layer's own largest. Through a layer that does not lead to the outputs nothing flows.
    Normalization can turn a flow round; its size is what is given. Ours; costs a pass over the batches, without the
    network unless it embeds them, beside what SynFlow does; in rounds, one pass for them all.

    Raises:
        UserError: R is not finite, nothing flows at all, or all inputs are the same.
    """
    vary = deviation("dataflow", model, batches, mask.kept.device)
    if vary.is_zero:
        raise UserError("dataflow looks at how inputs differ; those that were given are all the same, or only one")
    state = {
        name: tensor.zero_() if name.endswith(("bias", "running_mean")) else absolute(tensor)
        for name, tensor in in_double(model).items()
    }
    call = vary.call.of(_FAINT * vary.call.inputs) if vary.embedded is None else vary.call
    products = _products("dataflow", model, mask, state, call, vary.embedding(_FAINT), complete=False)
    largest = {name: product.abs_().amax() for name, product in products.items()}
    most = max(largest.values())
    scores = _flat(products, mask, {name: most if own > _LOST * most else own for name, own in largest.items()})
    if mask.count == mask.layout.size and not scores.any():
        why = why_nothing_passes(model, mask.layout)
        raise UserError(f"dataflow cannot prune this network: nothing flows through it to the outputs; {why}")
    return scores


def _products(
    criterion: str,
    model: nn.Module,
    mask: Mask,
    state: dict[str, Tensor],
    call: Call,
    embedding: Embedding | None,
    complete: bool = True,
) -> dict[str, Tensor]:
    """|θ| ⊙ ∂R/∂|θ| of each layer for an input, float64; takes the tensors of `state`."""
    gradients = flow(criterion, model, mask.layout, state, call, embedding, complete=complete)
    return {name: gradient.mul_(state.pop(name).detach()) for name, gradient in gradients.items()}


def _flat(products: dict[str, Tensor], mask: Mask, units: dict[str, Tensor]) -> Tensor:
    """Float32 (P,), each layer's in a unit; takes the tensors of `products`."""
    scores = torch.empty(mask.layout.size, dtype=torch.float32, device=mask.kept.device)
    for name, part in mask.layout.unflatten(scores).items():
        part.copy_(products.pop(name).div_(units[name].clamp_min(torch.finfo(torch.float64).tiny)))
    return scores
