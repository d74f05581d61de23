"""How much flows from an input to the outputs: the basis of SynFlow and NPB."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.func import functional_call

from autosparse.criteria.base import Batches
from autosparse.criteria.double import Embedding, InDouble
from autosparse.criteria.failures import naming_layers
from autosparse.criteria.feeding import Call, first_call, takes_ids
from autosparse.criteria.gradient import scoring_mode
from autosparse.errors import UserError
from autosparse.pruning import Layout
from autosparse.pruning.prunable import canonical, unwrapped

T = TypeVar("T")


def ones_of(criterion: str, model: nn.Module, batches: Batches, device: torch.device) -> tuple[Call, Embedding | None]:
    """A call with one input of ones, float64 (1, ...); if inputs are indices, one sample's, and an embedding of ones.

    Embeddings of other indices, such as positions, stay parameters like any other.
    """
    call = first_call(criterion, model, batches).map(lambda x: x.to(device))
    if not takes_ids(model, call.inputs):
        return call.of(torch.ones(call.inputs.shape, dtype=torch.float64, device=device)), None
    return call, lambda indices, given: torch.ones_like(given) if torch.equal(indices, call.inputs) else given


def in_double(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all that a model computes with, in float64, by canonical name; of what has several it is one tensor."""
    copies = dict[Tensor, Tensor]()
    found = [(canonical(name), tensor) for name, tensor in _named(model) if tensor.is_floating_point()]
    for _, tensor in found:
        if tensor not in copies:
            copies[tensor] = tensor.detach().to(torch.float64, copy=True)
    return {name: copies[tensor] for name, tensor in found}


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
    """What becomes of a model's outputs, in evaluation mode.

    Args:
        criterion: whom an error speaks for.
        model: whose forward to take; left as it was.
        state: the float64 tensors to take in the place of the model's own, by canonical name.
        call: on the model's device: inputs float64, or indices.
        embedding: what embeddings give instead.
        then: what to do with the outputs, while `state` is still in place: activations may be computed again for it.

    Raises:
        UserError: a layer cannot take what it is given, or gives what is not finite; outputs that are no tensor.
    """
    problem, model = f"{criterion} cannot prune this network", unwrapped(model)
    given = {f"model.{name}": state[canonical(name)] for name, _ in _named(model) if canonical(name) in state}
    try:
        with (
            scoring_mode(model, "running"),
            uncompiled(model),
            naming_layers(problem, model, finite=True, after="the way back"),
            InDouble(embedding),
        ):
            return functional_call(_Followed(model, problem), given, (call, then))
    except UserError as error:
        raise UserError(f"{error}; snip, which runs a network as it is, may take it") from error


class _Followed(nn.Module):
    """A model's outputs, and what is done with them: a module, for `functional_call` to reach both."""

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
    """The derivative of the sum of a model's outputs, or of another total of them, by the weights of each layer.

    Raises:
        UserError: see `run`; a layer that does not lead to the outputs, if it is to be `complete`, else its are zero.
    """
    weights = {layer.name: state[layer.name].requires_grad_() for layer in layout.layers}

    def derivative(outputs: Tensor) -> tuple[Tensor | None, ...]:
        if not outputs.requires_grad:
            raise UserError(f"{criterion} cannot prune this network: its outputs depend on no prunable layer")
        return gradient_of(total(outputs), list(weights.values()))

    with torch.enable_grad():
        found = run(criterion, model, state, call, embedding, derivative)
    gradients = dict(zip(weights, found, strict=True))
    if complete and (loose := [name for name, gradient in gradients.items() if gradient is None]):
        raise UserError(f"{criterion} cannot prune this network: no path leads from layer {loose[0]} to the outputs")
    return {name: torch.zeros_like(weights[name]) if each is None else each for name, each in gradients.items()}


def gradient_of(outputs: Tensor, inputs: Sequence[Tensor], along: Tensor | None = None) -> tuple[Tensor | None, ...]:
    """Return the gradient of outputs as `torch.autograd.grad` does, with function modes active while it is computed.

    `torch.autograd.grad` suspends them, and activations that `torch.utils.checkpoint` computes again would be others.
    """
    along = torch.ones_like(outputs) if along is None else along
    return _engine_run_backward((outputs,), (along,), False, False, tuple(inputs), True, accumulate_grad=False)


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    inner = unwrapped(model)
    return chain(inner.named_parameters(remove_duplicate=False), inner.named_buffers(remove_duplicate=False))


@contextlib.contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Parts of a model that are compiled run as they were written: compiling for one sample in float64 never pays."""
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:  # setting it takes seconds to import
        yield
