"""How much flows from an input to the outputs: the ground of SynFlow and NPB."""

import contextlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autosparse.criteria.base import Batches
from autosparse.criteria.double import Embedding, InDouble
from autosparse.criteria.failures import naming_layers
from autosparse.criteria.gradient import scoring_mode
from autosparse.distributed import gather
from autosparse.errors import UserError
from autosparse.pruning import Layout
from autosparse.pruning.prunable import canonical, unwrapped

T = TypeVar("T")


def inputs_of(criterion: str, batch: Any) -> Tensor:
    """What a network is given of a batch: the batch itself, or its first part.

    Raises:
        UserError: that is no tensor.
    """
    inputs = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
    if not isinstance(inputs, Tensor) or not inputs.ndim:
        raise UserError(
            f"{criterion} feeds a network one tensor, a batch or its first part; this is a {type(inputs).__name__}; "
            "snip, iterative-snip and force take any batch with loss=, random and magnitude need none"
        )
    return inputs


def first_input(criterion: str, batches: Batches) -> Tensor:
    """The first sample that any process has: (1, ...) on the CPU; its values if they are integers, else ones.

    Raises:
        UserError: no batch, or one that is not known to be fed.
    """
    found = (inputs_of(criterion, batch) for batch in batches)
    mine = next((inputs[:1].cpu() for inputs in found if len(inputs)), None)
    if mine is not None and mine.is_floating_point():
        mine = torch.ones(mine.shape, dtype=torch.float64)
    first = next((each for each in gather(mine) if each is not None), None)
    if first is None:
        raise UserError("the shape of an input is that of a batch; at least one batch is needed, none was given")
    return first


def takes_ids(model: nn.Module, inputs: Tensor) -> bool:
    """Whether inputs are indices into an embedding of the model."""
    embeds = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())
    return embeds and not inputs.is_floating_point()


def ones_of(
    criterion: str, model: nn.Module, batches: Batches, device: torch.device
) -> tuple[Tensor, Embedding | None]:
    """An input of ones, float64 (1, ...); or, for what takes indices, some of them and an embedding of them in ones.

    Of other indices, such as positions, the embedding is a parameter like any other.
    """
    first = first_input(criterion, batches).to(device)
    if not takes_ids(model, first):
        return torch.ones(first.shape, dtype=torch.float64, device=device), None
    return first, lambda indices, given: torch.ones_like(given) if torch.equal(indices, first) else given


def in_double(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all that a model computes with, in float64, by canonical name; of what has several it is one tensor."""
    copies = dict[Tensor, Tensor]()
    found = [(canonical(name), tensor) for name, tensor in _named(model) if tensor.is_floating_point()]
    for _, tensor in found:
        if tensor not in copies:
            copies[tensor] = tensor.detach().to(torch.float64, copy=True)
    return {name: copies[tensor] for name, tensor in found}


def run(
    criterion: str,
    model: nn.Module,
    state: dict[str, Tensor],
    inputs: Tensor,
    embedding: Embedding | None,
    then: Callable[[Tensor], T],
) -> T:
    """What becomes of the sum of a model's outputs for one input, in evaluation mode.

    Args:
        criterion: whom an error speaks for.
        model: whose forward to take; left as it was.
        state: the float64 tensors to take in the place of the model's own, by canonical name.
        inputs: (1, ...), on the model's device: float64, or indices.
        embedding: what embeddings give instead.
        then: what to do with the sum, while `state` is still in place: activations may be computed again for it.

    Raises:
        UserError: a layer cannot take what it is given, or gives what is not finite; outputs that are no tensor.
    """
    problem, model = f"{criterion} cannot prune this network", unwrapped(model)
    given = {f"model.{name}": state[canonical(name)] for name, _ in _named(model) if canonical(name) in state}
    try:
        with (
            scoring_mode(model, "running"),
            _uncompiled(model),
            naming_layers(problem, model, finite=True, after="the way back"),
            InDouble(embedding),
        ):
            return functional_call(_Summed(model, problem), given, (inputs, then))
    except UserError as error:
        raise UserError(f"{error}; snip, which runs a network as it is, may take it") from error


class _Summed(nn.Module):
    """The sum of a model's outputs, and what is done with it: a module, for `functional_call` to reach both."""

    def __init__(self, model: nn.Module, problem: str) -> None:
        super().__init__()
        self.model, self.problem = model, problem

    def forward(self, inputs: Tensor, then: Callable[[Tensor], T]) -> T:
        outputs = self.model(inputs)
        outputs = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", outputs)
        if not isinstance(outputs, Tensor):
            kind = type(outputs).__name__
            raise UserError(f"{self.problem}: it must return a tensor of class scores, and returns a {kind}")
        return then(outputs.sum())


def flow(
    criterion: str,
    model: nn.Module,
    layout: Layout,
    state: dict[str, Tensor],
    inputs: Tensor,
    embedding: Embedding | None = None,
    *,
    complete: bool = True,
) -> dict[str, Tensor]:
    """The derivative of `run` by the weights of each layer.

    Raises:
        UserError: see `run`; a layer that does not lead to the outputs, if it is to be `complete`, else its are zero.
    """
    weights = {layer.name: state[layer.name].requires_grad_() for layer in layout.layers}

    def derivative(total: Tensor) -> tuple[Tensor | None, ...]:
        if not total.requires_grad:
            raise UserError(f"{criterion} cannot prune this network: its outputs depend on no prunable layer")
        return torch.autograd.grad(total, list(weights.values()), allow_unused=True)

    with torch.enable_grad():
        found = run(criterion, model, state, inputs, embedding, derivative)
    gradients = dict(zip(weights, found, strict=True))
    if complete and (loose := [name for name, gradient in gradients.items() if gradient is None]):
        raise UserError(f"{criterion} cannot prune this network: no path leads from layer {loose[0]} to the outputs")
    return {name: torch.zeros_like(weights[name]) if each is None else each for name, each in gradients.items()}


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    inner = unwrapped(model)
    return chain(inner.named_parameters(remove_duplicate=False), inner.named_buffers(remove_duplicate=False))


@contextlib.contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Parts of a model that are compiled run as they were written: compiling for one sample in float64 never pays."""
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:  # setting it takes seconds to import
        yield
