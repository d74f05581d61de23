"""The flow from an input to the outputs in float64: the basis of SynFlow, NPB, PX and NTK-SAP."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.func import functional_call

from autosparse.criteria.base import Scoring
from autosparse.criteria.double import Embedding, InDouble
from autosparse.criteria.failures import naming_layers
from autosparse.criteria.gradient import scoring_mode
from autosparse.criteria.network_call import Call, first_call, takes_ids
from autosparse.errors import UserError
from autosparse.pruning import Layout
from autosparse.pruning.prunable import canonical, unwrapped

T = TypeVar("T")


def call_with_ones(
    criterion: str, model: nn.Module, scoring: Scoring, device: torch.device
) -> tuple[Call, Embedding | None]:
    """Return a call with one input of ones, float64 (1, ...); for indices, one sample's call and an embedding of ones.

    Embeddings of other indices, such as positions, stay parameters like any other.
    """
    call = first_call(criterion, model, scoring).map(lambda x: x.to(device))
    if not takes_ids(model, call.inputs):
        return call.with_inputs(torch.ones(call.inputs.shape, dtype=torch.float64, device=device)), None
    return call, lambda indices, output: torch.ones_like(output) if torch.equal(indices, call.inputs) else output


def in_double(model: nn.Module) -> dict[str, Tensor]:
    """Return float64 copies of a model's parameters and buffers by canonical name; tied tensors are one tensor."""
    copies = dict[Tensor, Tensor]()
    named = [(canonical(name), tensor) for name, tensor in _named(model) if tensor.is_floating_point()]
    for _, tensor in named:
        if tensor not in copies:
            copies[tensor] = tensor.detach().to(torch.float64, copy=True)
    return {name: copies[tensor] for name, tensor in named}


def absolute(tensor: Tensor) -> Tensor:
    """Take absolute values in place, except of -inf: attention masks add it, and observers of ranges start from it."""
    least = tensor == -torch.inf
    return tensor.abs_().masked_fill_(least, -torch.inf)


def run(
    criterion: str,
    model: nn.Module,
    state: dict[str, Tensor],
    call: Call,
    embedding: Embedding | None,
    then: Callable[[Tensor], T],
) -> T:
    """Run a model in evaluation mode with other tensors, and return the result of `then`.

    Args:
        criterion: name in errors.
        model: model whose forward pass runs; left unchanged.
        state: float64 tensors that replace the model's own, by canonical name.
        call: arguments on the model's device; inputs float64, or indices.
        embedding: replaces the outputs of embeddings.
        then: called with the outputs while `state` is in place, since activations may be recomputed for it.

    Raises:
        UserError: a layer fails or returns values that are not finite, or the outputs are not a tensor.
    """
    problem, model = f"{criterion} cannot prune this network", unwrapped(model)
    tensors = {f"model.{name}": state[canonical(name)] for name, _ in _named(model) if canonical(name) in state}
    try:
        with (
            scoring_mode(model, "running"),
            uncompiled(model),
            naming_layers(problem, model, finite=True, after="the way back"),
            InDouble(embedding),
        ):
            return functional_call(_ModelThen(model, problem), tensors, (call, then))
    except UserError as error:
        raise UserError(f"{error}; snip, which runs a network as it is, may take it") from error


class _ModelThen(nn.Module):
    """A model and a function of its outputs, as one module that `functional_call` can run."""

    def __init__(self, model: nn.Module, problem: str) -> None:
        super().__init__()
        self.model, self.problem = model, problem

    def forward(self, call: Call, then: Callable[[Tensor], T]) -> T:
        outputs = call(self.model)
        outputs = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", outputs)
        if not isinstance(outputs, Tensor):
            kind = type(outputs).__name__
            raise UserError(f"{self.problem}: it must return a tensor of class scores, and returns a {kind}")
        return then(outputs)


def flow(
    criterion: str,
    model: nn.Module,
    layout: Layout,
    state: dict[str, Tensor],
    call: Call,
    embedding: Embedding | None = None,
    *,
    complete: bool = True,
    total: Callable[[Tensor], Tensor] = Tensor.sum,
) -> dict[str, Tensor]:
    """Return the derivative of the sum of a model's outputs, or of another total, by the weights of each layer.

    Raises:
        UserError: see `run`; or `complete` and a layer does not lead to the outputs. Otherwise its derivative is zero.
    """
    weights = {layer.name: state[layer.name].requires_grad_() for layer in layout.layers}

    def derivative(outputs: Tensor) -> tuple[Tensor | None, ...]:
        if not outputs.requires_grad:
            raise UserError(f"{criterion} cannot prune this network: its outputs depend on no prunable layer")
        return gradient_of(total(outputs), list(weights.values()))

    with torch.enable_grad():
        values = run(criterion, model, state, call, embedding, derivative)
    gradients = dict(zip(weights, values, strict=True))
    if complete and (loose := [name for name, gradient in gradients.items() if gradient is None]):
        raise UserError(f"{criterion} cannot prune this network: no path leads from layer {loose[0]} to the outputs")
    return {name: torch.zeros_like(weights[name]) if value is None else value for name, value in gradients.items()}


def gradient_of(outputs: Tensor, inputs: Sequence[Tensor], along: Tensor | None = None) -> tuple[Tensor | None, ...]:
    """Return the gradient of outputs as `torch.autograd.grad` does, with function modes active while it is computed.

    `torch.autograd.grad` suspends them, and `torch.utils.checkpoint` would recompute other activations.
    """
    along = torch.ones_like(outputs) if along is None else along
    return _engine_run_backward((outputs,), (along,), False, False, tuple(inputs), True, accumulate_grad=False)


@contextlib.contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Run compiled parts of a model eagerly: compiling for one sample in float64 never pays."""
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:  # Setting the stance takes seconds to import.
        yield


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    inner = unwrapped(model)
    return chain(inner.named_parameters(remove_duplicate=False), inner.named_buffers(remove_duplicate=False))
