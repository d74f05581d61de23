"""How much flows from an input to the outputs: the ground of SynFlow and NPB."""

from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autosparse.criteria.base import Batches
from autosparse.criteria.failures import naming_layers
from autosparse.criteria.gradient import scoring_mode
from autosparse.distributed import gather
from autosparse.errors import UserError
from autosparse.pruning import Layout


def first_shape(batches: Batches) -> torch.Size:
    """The shape of one input, by the first batch that any process has.

    Raises:
        UserError: no batch.
    """
    mine = next((inputs.shape[1:] for inputs, _ in batches), None)
    shape = next((shape for shape in gather(mine) if shape is not None), None)
    if shape is None:
        raise UserError("the shape of an input is that of a batch; at least one batch is needed, none was given")
    return shape


def ones(shape: torch.Size, device: torch.device) -> Tensor:
    """One input of ones, float64 (1, *shape)."""
    return torch.ones(1, *shape, dtype=torch.float64, device=device)


def in_double(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all that a model computes with, in float64, by name; what has several names is one tensor."""
    copies = dict[Tensor, Tensor]()
    named = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    found = [(name, tensor) for name, tensor in named if tensor.is_floating_point()]
    for _, tensor in found:
        if tensor not in copies:
            copies[tensor] = tensor.detach().to(torch.float64, copy=True)
    return {name: copies[tensor] for name, tensor in found}


def run(criterion: str, model: nn.Module, state: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """The sum of a model's outputs for one input, in evaluation mode.

    Args:
        criterion: whom an error speaks for.
        model: whose forward to take; left as it was.
        state: the float64 tensors to take in the place of the model's own.
        inputs: float64 (1, ...), on the model's device.

    Raises:
        UserError: a layer cannot take what it is given, or gives what is not finite; outputs that are no tensor.
    """
    problem = f"{criterion} cannot prune this network"
    with scoring_mode(model, "running"), naming_layers(problem, model, finite=True):
        outputs = functional_call(model, state, (inputs,))
    if not isinstance(outputs, Tensor):
        raise UserError(f"{problem}: it must return a tensor of class scores, and returns a {type(outputs).__name__}")
    return outputs.sum()


def flow(
    criterion: str,
    model: nn.Module,
    layout: Layout,
    state: dict[str, Tensor],
    inputs: Tensor,
    *,
    complete: bool = True,
) -> dict[str, Tensor]:
    """The derivative of `run` by the weights of each layer.

    Raises:
        UserError: see `run`; a layer that does not lead to the outputs, if it is to be `complete`, else its are zero.
    """
    weights = {layer.name: state[layer.name].requires_grad_() for layer in layout.layers}
    with torch.enable_grad():
        total = run(criterion, model, state, inputs)
        if not total.requires_grad:
            raise UserError(f"{criterion} cannot prune this network: its outputs depend on no prunable layer")
        found = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    gradients = dict(zip(weights, found, strict=True))
    if complete and (loose := [name for name, gradient in gradients.items() if gradient is None]):
        raise UserError(f"{criterion} cannot prune this network: no path leads from layer {loose[0]} to the outputs")
    return {name: torch.zeros_like(weights[name]) if each is None else each for name, each in gradients.items()}
