"""The flow from an input to the outputs in float64: the basis of SynFlow, NPB, PX and NTK-SAP."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from autosparse.criteria.base import Scoring
from autosparse.criteria.failures import LOSS, naming_layers
from autosparse.criteria.gradient import named_tensors, scoring_mode, uncompiled, with_tensors
from autosparse.criteria.loss import CrossEntropy, Loss, class_scores
from autosparse.distributed import gather
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from autosparse.pruning.prunable import canonical, unwrapped

Named = dict[str, Tensor]
"""Tensors by canonical name."""
Embedding = Callable[[Tensor, Tensor], Tensor]
"""(indices, output of an embedding for them) -> replacement of that output."""
_EMBEDDINGS = (F.embedding, F.embedding_bag)
_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_NARROWING = ("float", "half", "bfloat16")  # methods of a tensor
_OTHERS = "snip, iterative-snip and force take any batch with loss=, random and magnitude need none"
_IDS = "input_ids"  # the name of Hugging Face


@dataclass(frozen=True)
class Call:
    """The arguments of a call of a network, and the place of the data: a position in `args` or a name in `kwargs`."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    place: int | str = 0

    @property
    def inputs(self) -> Tensor:
        """Tensor (B, ...) that holds the data."""
        inputs: Tensor = self.args[self.place] if isinstance(self.place, int) else self.kwargs[self.place]
        return inputs

    def __call__(self, model: nn.Module) -> Tensor:
        """Return the class scores of a model."""
        return class_scores(model(*self.args, **self.kwargs))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Call":
        """Return the same call with each tensor changed."""
        args, kwargs = tree_map_only(Tensor, change, (self.args, self.kwargs))
        return Call(args, kwargs, self.place)

    def with_inputs(self, inputs: Tensor) -> "Call":
        """Return the same call with other inputs."""
        if isinstance(self.place, str):
            return replace(self, kwargs={**self.kwargs, self.place: inputs})
        return replace(self, args=(*self.args[: self.place], inputs, *self.args[self.place + 1 :]))


def call_of(criterion: str, model: nn.Module, loss: Loss, batch: Any) -> Call:
    """Return the call of the network for a batch: with it or its first part, or the first call that another loss makes.

    The network does not run.
    """
    if isinstance(loss, CrossEntropy):
        inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(inputs, Tensor) or not inputs.ndim:
            raise UserError(
                f"{criterion} feeds a network one tensor, a batch or its first part, or what loss= calls it with; "
                f"this is a {type(inputs).__name__}; {_OTHERS}"
            )
        return Call((inputs,), {})
    problem, model = f"{criterion} cannot prune this network", unwrapped(model)

    class CalledError(BaseException):
        """Ends the loss where it calls the network; holds the arguments."""

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise CalledError(args, kwargs)

    hook = model.register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
    try:
        with naming_layers(f"{problem}: {LOSS}, fails before it calls the network"):
            loss(model, batch)
    except CalledError as call:
        args, kwargs = call.args
    else:
        raise UserError(f"{problem}: the loss does not call the network")
    finally:
        hook.remove()
    arguments = dict[int | str, Any](enumerate(args)) | kwargs
    tensors = {place: value for place, value in arguments.items() if isinstance(value, Tensor) and value.ndim}
    floating = [place for place, value in tensors.items() if value.is_floating_point()]
    if _IDS not in tensors and (len(floating) > 1 or not tensors):
        raise UserError(f"{criterion} feeds a network one tensor; loss= calls it with {len(floating)}; {_OTHERS}")
    return Call(args, kwargs, _IDS if _IDS in tensors else next(iter(floating or tensors)))


def first_call(criterion: str, model: nn.Module, scoring: Scoring, device: torch.device) -> Call:
    """Return the call of the first sample of any process; inputs that are not integers are float64 ones."""
    calls = (call_of(criterion, model, scoring.loss, batch) for batch in scoring.batches)
    call = next((call for call in calls if len(call.inputs)), None)
    if call is not None:
        samples = len(call.inputs)
        call = call.map(lambda x: (x[:1] if x.ndim and len(x) == samples else x).detach().to("cpu", copy=True))
        if call.inputs.is_floating_point():
            call = call.with_inputs(torch.ones(call.inputs.shape, dtype=torch.float64, device="cpu"))
    first = next(iter(gather(call)), None)
    if first is None:
        raise UserError("at least one batch is needed, for the shape of its inputs; none was given")
    return first.map(lambda x: x.to(device))


def call_with_ones(
    criterion: str, model: nn.Module, scoring: Scoring, device: torch.device
) -> tuple[Call, Embedding | None]:
    """Return a call with inputs of ones, float64 (1, ...); for indices, a sample's call and an embedding of ones."""
    call = first_call(criterion, model, scoring, device)
    return filled(model, call, lambda shape: torch.ones(shape, dtype=torch.float64, device=device))


def filled(model: nn.Module, call: Call, fill: Callable[[torch.Size], Tensor]) -> tuple[Call, Embedding | None]:
    """Return the call with inputs that `fill` makes or, if inputs are indices, an embedding that returns such values.

    Embeddings of other indices, such as positions, stay parameters like any other.
    """
    if not takes_ids(model, call.inputs):
        return call.with_inputs(fill(call.inputs.shape)), None
    values: list[Tensor] = []  # the same in every pass

    def embedding(indices: Tensor, output: Tensor) -> Tensor:
        if not torch.equal(indices, call.inputs):
            return output
        if not values:
            values.append(fill(output.shape))
        return values[0]

    return call, embedding


def takes_ids(model: nn.Module, inputs: Tensor) -> bool:
    """Return True if inputs are indices into an embedding of the model."""
    embeds = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())
    return embeds and not inputs.is_floating_point()


def in_double(model: nn.Module, change: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor) -> Named:
    """Return float64 copies of a model's parameters and buffers by canonical name; tied tensors are one tensor.

    `change` is called with the name and the copy of each tensor, and returns the tensor that replaces the copy.
    """
    named = {canonical(name): tensor for name, tensor in named_tensors(model) if tensor.is_floating_point()}
    names = {tensor: name for name, tensor in named.items()}
    copies = {tensor: change(name, tensor.detach().to(torch.float64, copy=True)) for tensor, name in names.items()}
    return {name: copies[tensor] for name, tensor in named.items()}


def absolute(name: str, tensor: Tensor) -> Tensor:
    """Take absolute values in place, except of -inf: attention masks add it, and observers of ranges start from it."""
    least = tensor == -torch.inf
    return tensor.abs_().masked_fill_(least, -torch.inf)


@contextlib.contextmanager
def evaluating(criterion: str, model: nn.Module, state: Named, embedding: Embedding | None = None) -> Iterator[None]:
    """Let a model compute in evaluation mode and float64, with the tensors of `state` instead of its own.

    Raises:
        UserError: a layer fails or returns values that are not finite (names the layer).
    """
    problem, model = f"{criterion} cannot prune this network", unwrapped(model)
    try:
        with (
            scoring_mode(model, "running"),
            uncompiled(model),
            with_tensors(model, state),
            naming_layers(problem, model, finite=True, after="the way back"),
            InDouble(embedding),
        ):
            yield
    except UserError as error:
        raise UserError(f"{error}; snip, which runs a network as it is, may take it") from error


def flow(
    criterion: str,
    model: nn.Module,
    layout: Layout,
    state: Named,
    call: Call,
    embedding: Embedding | None = None,
    *,
    complete: bool = True,
    total: Callable[[Tensor], Tensor] = Tensor.sum,
) -> Named:
    """Return the derivative of the sum of a model's outputs, or of another total, by the weights of each layer.

    If no path leads from a layer to the outputs, its derivative is zero, or an error if `complete`.
    """
    problem = f"{criterion} cannot prune this network"
    weights = {layer.name: state[layer.name].requires_grad_() for layer in layout.layers}
    with torch.enable_grad(), evaluating(criterion, model, state, embedding):
        outputs = call(unwrapped(model))
        if not outputs.requires_grad:
            raise UserError(f"{problem}: its outputs depend on no prunable layer")
        gradients = dict(zip(weights, gradient_of(total(outputs), list(weights.values())), strict=True))
    if complete and (loose := [name for name, gradient in gradients.items() if gradient is None]):
        raise UserError(f"{problem}: no path leads from layer {loose[0]} to the outputs")
    return {name: torch.zeros_like(weights[name]) if value is None else value for name, value in gradients.items()}


def scores_of(products: Named, mask: Mask, units: Named | None = None) -> Tensor:
    """Return float32 (P,), the products of each layer divided by its unit; empties `products`.

    Default unit: the largest product of all layers.
    """
    units = units or dict.fromkeys(products, torch.stack([product.amax() for product in products.values()]).amax())
    scores = torch.empty(mask.layout.size, dtype=torch.float32, device=mask.kept.device)
    for name, part in mask.layout.unflatten(scores).items():
        part.copy_(products.pop(name).div_(units[name].clamp_min(torch.finfo(torch.float64).tiny)))
    return scores


def gradient_of(outputs: Tensor, inputs: Sequence[Tensor], along: Tensor | None = None) -> tuple[Tensor | None, ...]:
    """Return the gradient of outputs as `torch.autograd.grad` does, with function modes active while it is computed.

    `torch.autograd.grad` suspends them, and `torch.utils.checkpoint` would recompute other activations.
    """
    along = torch.ones_like(outputs) if along is None else along
    return _engine_run_backward((outputs,), (along,), False, False, tuple(inputs), True, accumulate_grad=False)


class Embeddings(TorchFunctionMode):
    """Replaces the outputs of embeddings, if there is a replacement."""

    def __init__(self, replacement: Embedding | None = None) -> None:
        super().__init__()
        self._replacement = replacement

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._replacement and func in _EMBEDDINGS:
            return self._replacement(args[0] if args else kwargs["input"], func(*args, **kwargs))
        return self.compute(func, args, kwargs)

    def compute(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of another function."""
        return func(*args, **kwargs)


class InDouble(Embeddings):
    """Converts tensors that meet float64 to float64, and skips conversions to narrower types.

    So `.float()`, `.to(torch.float16)` and constants that a module holds in float32 do no harm; autocast leaves
    float64 alone by itself. A tensor that is written in place keeps its type.
    """

    def compute(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", "")
        if name in _NARROWING:
            return args[0].double()
        args, kwargs = tree_map(_widened_type, (args, kwargs))
        in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if not in_place and any(
            isinstance(x, Tensor) and x.dtype == torch.float64 for x in tree_leaves((args, kwargs))
        ):
            args, kwargs = tree_map(_widened, (args, kwargs))
        return func(*args, **kwargs)


def _widened(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.dtype in _NARROW else value


def _widened_type(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value
