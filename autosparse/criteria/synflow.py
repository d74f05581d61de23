"""SynFlow: synaptic flow, without data (Tanaka et al. 2020, eq. 3), and from what the data vary in."""

import torch
from torch import Tensor, nn

from autosparse.criteria.contract import Batches
from autosparse.criteria.flow import first_shape, flow, in_double, ones
from autosparse.criteria.world import total
from autosparse.errors import UserError
from autosparse.pruning import Mask

_FAINT = 1e-100  # what reaches an activation after many layers is still small
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
    scores = _products("synflow", model, mask, state, inputs)
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
    network. Biases and running means are left out and the input is made very faint, so that no activation saturates;
    through a layer that does not lead to the outputs nothing flows. Ours; costs a pass over the batches, without the
    network, beside what SynFlow does.

    Raises:
        UserError: R is not finite, nothing flows at all, or all inputs are the same.
    """
    deviation = _deviation(batches, mask.kept.device)
    if not deviation.any():
        raise UserError("dataflow looks at what the inputs vary in, and those that were given are all the same")
    state = {
        name: tensor.zero_() if name.endswith(("bias", "running_mean")) else tensor.abs_()
        for name, tensor in in_double(model).items()
    }
    scores = _products("dataflow", model, mask, state, _FAINT * deviation, complete=False)
    if mask.count == mask.layout.size and not scores.any():
        raise UserError(f"dataflow cannot prune this network: nothing flows through it to the outputs; {_HINT}")
    return scores


def _products(
    criterion: str, model: nn.Module, mask: Mask, state: dict[str, Tensor], inputs: Tensor, complete: bool = True
) -> Tensor:
    """|θ| ⊙ ∂R/∂|θ| for an input, float32 (P,), in units of the largest; takes the tensors of `state`."""
    gradients = flow(criterion, model, mask.layout, state, inputs, complete=complete)
    products = {name: gradient.mul_(state.pop(name).detach()) for name, gradient in gradients.items()}
    largest = max(product.amax() for product in products.values()).clamp_min(torch.finfo(torch.float64).tiny)
    scores = torch.empty(mask.layout.size, device=mask.kept.device)
    for name, part in mask.layout.unflatten(scores).items():
        part.copy_(products.pop(name).div_(largest))
    return scores


def _deviation(batches: Batches, device: torch.device) -> Tensor:
    """Of each element of the inputs of all processes, float64 (1, ...)."""
    shape = first_shape(batches)
    sums, squares = (torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(2))
    samples = torch.zeros((), dtype=torch.float64, device=device)
    for inputs, _ in batches:
        values = inputs.to(device, torch.float64)
        sums += values.sum(0)
        squares += values.square().sum(0)
        samples += len(values)
    total(sums, squares, samples)
    variance = squares / samples - (sums / samples).square()
    # of a constant, rounding leaves a little
    return torch.where(variance > 1e-12 * squares / samples, variance, 0.0).sqrt()[None]
