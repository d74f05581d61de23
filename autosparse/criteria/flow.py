"""How much flows from an input to the outputs: the ground of SynFlow and NPB."""

import contextlib
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autosparse.criteria.contract import Batches
from autosparse.criteria.gradient import scoring_mode
from autosparse.criteria.world import gathered
from autosparse.errors import UserError
from autosparse.pruning import Layout


def first_shape(batches: Batches) -> torch.Size:
    """The shape of one input, by the first batch that any process has.

    Raises:
        UserError: no batch.
    """
    mine = next((inputs.shape[1:] for inputs, _ in batches), None)
    shape = next((shape for shape in gathered(mine) if shape is not None), None)
    if shape is None:
        raise UserError("the shape of an input is that of a batch; at least one batch is needed, none was given")
    return shape


def ones(shape: torch.Size, device: torch.device) -> Tensor:
    """One input of ones, float64 (1, *shape)."""
    return torch.ones(1, *shape, dtype=torch.float64, device=device)


def in_double(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all that a model computes with, in float64, by name."""
    tensors = chain(model.named_parameters(), model.named_buffers())
    return {
        name: tensor.detach().to(torch.float64, copy=True) for name, tensor in tensors if tensor.is_floating_point()
    }


def run(criterion: str, model: nn.Module, state: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """The sum of a model's outputs for one input, in evaluation mode.

    Args:
        criterion: whom an error speaks for.
        model: whose forward to take; left as it was.
        state: the float64 tensors to take in the place of the model's own.
        inputs: float64 (1, ...), on the model's device.

    Raises:
        UserError: a layer cannot take what it is given, or gives what is not finite.
    """
    with scoring_mode(model, "running"), _naming_layers(criterion, model):
        outputs: Tensor = functional_call(model, state, (inputs,))
    return outputs.sum()


def flow(
    criterion: str, model: nn.Module, layout: Layout, state: dict[str, Tensor], inputs: Tensor
) -> dict[str, Tensor]:
    """The derivative of `run` by the weights of each layer; zero where no path leads to the outputs."""
    weights = {layer.name: state[layer.name].requires_grad_() for layer in layout.layers}
    with torch.enable_grad():
        total = run(criterion, model, state, inputs)
        if not total.requires_grad:
            raise UserError(f"{criterion} cannot prune this network: its outputs depend on no prunable layer")
        gradients = torch.autograd.grad(total, list(weights.values()), materialize_grads=True)
    return dict(zip(weights, gradients, strict=True))


@contextlib.contextmanager
def _naming_layers(criterion: str, model: nn.Module) -> Iterator[None]:
    """Say which layer it was that failed."""
    running = "the input"

    def before(name: str) -> None:
        nonlocal running
        running = f"layer {name}"

    def after(name: str, output: object) -> None:
        if isinstance(output, Tensor) and not output.isfinite().all():
            raise UserError(f"{criterion} cannot prune this network: what layer {name} gives is not finite")

    leaves = [(name, module) for name, module in model.named_modules() if not next(module.children(), None)]
    hooks = [module.register_forward_pre_hook(lambda m, x, name=name: before(name)) for name, module in leaves]
    hooks += [module.register_forward_hook(lambda m, x, y, name=name: after(name, y)) for name, module in leaves]
    try:
        yield
    except (RuntimeError, TypeError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{criterion} cannot prune this network: it fails at {running}: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
