"""SynFlow: synaptic flow, without data (Tanaka et al. 2020, eq. 3), and from what the data vary in."""

import torch
from torch import Tensor, nn

from autosparse.criteria.base import Batches
from autosparse.criteria.flow import first_shape, flow, in_double, ones
from autosparse.distributed import all_reduce
from autosparse.errors import UserError
from autosparse.pruning import Mask

_FAINT = 1e-100  # what reaches an activation after many layers is still small
_LOST = 1e-30  # float32 hardly reaches further
_HINT = "an activation that saturates, such as a sigmoid, lets nothing pass"


def synflow(model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
    """|θ| ⊙ ∂R/∂|θ|, R the sum of the outputs for an input of ones; in units of the largest.

    All weights, biases and statistics by their absolute values, batch norm and dropout in evaluation mode, in float64,
    as products over many layers leave the range of float32. Looks at no batch but for the shape of an input; costs a
    forward and a backward pass of one sample in float64. One shot it is poor; it is meant for 100 `Rounds`.

    Raises:
        UserError: R is not finite, or nothing flows from the input through a layer to the outputs (names the layer).
    """
    state = {name: tensor.abs_() for name, tensor in in_double(model).items()}
    inputs = ones(first_shape(batches), mask.kept.device)
    products = _products("synflow", model, mask, state, inputs)
    scores = _flat(products, mask, dict.fromkeys(products, max(product.amax() for product in products.values())))
    if mask.count == mask.layout.size:  # later rounds may cut a layer off
        for name, part in mask.layout.unflatten(scores).items():
            if not part.any():
                raise UserError(
                    f"synflow cannot prune this network: nothing flows through layer {name} to the outputs; {_HINT}"
                )
    return scores


def dataflow(model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
    """SynFlow of an input that is not ones but the standard deviation of the data, element by element.

    An element that is the same in every input, such as the corner of a digit's image, then brings nothing into the
    network. Biases and running means are left out and the input is made very faint, so that activations that are 0 at
    0 do not saturate. What others, such as a sigmoid, add of their own drowns what comes before them: where a layer's
    flows are lost to the largest of all, they are in units of the layer's own largest. Through a layer that does not
    lead to the outputs nothing flows. Normalization can turn a flow round; its size is what is given. Ours; costs a
    pass over the batches, without the network, beside what SynFlow does.

    Raises:
        UserError: R is not finite, nothing flows at all, or all inputs are the same.
    """
    deviation = _deviation(batches, mask.kept.device)
    if not deviation.any():
        raise UserError(
            "dataflow looks at what the inputs vary in; those that were given are all the same, or only one"
        )
    state = {
        name: tensor.zero_() if name.endswith(("bias", "running_mean")) else tensor.abs_()
        for name, tensor in in_double(model).items()
    }
    products = _products("dataflow", model, mask, state, _FAINT * deviation, complete=False)
    largest = {name: product.abs_().amax() for name, product in products.items()}
    most = max(largest.values())
    scores = _flat(products, mask, {name: most if own > _LOST * most else own for name, own in largest.items()})
    if mask.count == mask.layout.size and not scores.any():
        raise UserError(f"dataflow cannot prune this network: nothing flows through it to the outputs; {_HINT}")
    return scores


def _products(
    criterion: str, model: nn.Module, mask: Mask, state: dict[str, Tensor], inputs: Tensor, complete: bool = True
) -> dict[str, Tensor]:
    """|θ| ⊙ ∂R/∂|θ| of each layer for an input, float64; takes the tensors of `state`."""
    gradients = flow(criterion, model, mask.layout, state, inputs, complete=complete)
    return {name: gradient.mul_(state.pop(name).detach()) for name, gradient in gradients.items()}


def _flat(products: dict[str, Tensor], mask: Mask, units: dict[str, Tensor]) -> Tensor:
    """Float32 (P,), each layer's in a unit; takes the tensors of `products`."""
    scores = torch.empty(mask.layout.size, device=mask.kept.device)
    for name, part in mask.layout.unflatten(scores).items():
        part.copy_(products.pop(name).div_(units[name].clamp_min(torch.finfo(torch.float64).tiny)))
    return scores


def _deviation(batches: Batches, device: torch.device) -> Tensor:
    """The deviation of each element of the inputs of all processes, float64 (1, ...)."""
    shape = first_shape(batches)
    sums, squares = (torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(2))
    samples = torch.zeros((), dtype=torch.float64, device=device)
    for inputs, _ in batches:
        if inputs.shape[1:] != shape:
            both = " and ".join(str(tuple(each)) for each in (shape, inputs.shape[1:]))
            raise UserError(f"dataflow compares inputs element by element; they are of shapes {both}")
        values = inputs.to(device, torch.float64)
        sums += values.sum(0)
        squares += values.square().sum(0)
        samples += len(values)
    all_reduce(sums, squares, samples)
    variance = squares / samples - (sums / samples).square()
    # of a constant, rounding leaves a little
    return torch.where(variance > 1e-12 * squares / samples, variance, 0.0).sqrt()[None]
