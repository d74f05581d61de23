"""How a network is fed: what it is called with for a batch, and of that what the data are in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from autosparse.criteria.base import Batches
from autosparse.criteria.failures import LOSS, in_one_line
from autosparse.criteria.loss import CrossEntropy, Loss, loss_of
from autosparse.distributed import gather
from autosparse.errors import UserError
from autosparse.pruning.prunable import unwrapped

_OTHERS = "snip, iterative-snip and force take any batch with loss=, random and magnitude need none"
_IDS = "input_ids"  # the name of Hugging Face


@dataclass(frozen=True)
class Call:
    """What a network is called with.

    Attributes:
        inputs: the tensor that the data are in, (B, ...).
        args, kwargs: all of it, with None in the place of the inputs.
        place: where those are: a position in `args` or a name in `kwargs`.
    """

    inputs: Tensor
    args: tuple[Any, ...] = (None,)
    kwargs: Mapping[str, Any] | None = None
    place: int | str = 0

    def __call__(self, model: nn.Module) -> Any:
        """Make the call."""
        args, kwargs = list(self.args), dict(self.kwargs or {})
        if isinstance(self.place, int):
            args[self.place] = self.inputs
        else:
            kwargs[self.place] = self.inputs
        return model(*args, **kwargs)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Call":
        """The same call with each tensor changed."""
        args = tuple(_mapped(change, each) for each in self.args)
        kwargs = {name: _mapped(change, each) for name, each in (self.kwargs or {}).items()}
        return Call(change(self.inputs), args, kwargs, self.place)

    def of(self, inputs: Tensor) -> "Call":
        """The same call with other inputs."""
        return replace(self, inputs=inputs)


def call_of(criterion: str, model: nn.Module, loss: Loss, batch: Any) -> Call:
    """The call of the network for a batch: by the cross-entropy with it or its first part, else as the loss does.

    Raises:
        UserError: it is not one tensor that the data are in, or the loss fails before it calls the network.
    """
    if not isinstance(loss, CrossEntropy):
        return _seen(criterion, unwrapped(model), loss, batch)
    inputs = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
    if not isinstance(inputs, Tensor) or not inputs.ndim:
        kind = type(inputs).__name__
        raise UserError(
            f"{criterion} feeds a network one tensor, a batch or its first part, or what loss= calls it with; "
            f"this is a {kind}; {_OTHERS}"
        )
    return Call(inputs)


def first_call(criterion: str, model: nn.Module, batches: Batches) -> Call:
    """The call of the first sample that any process has, on the CPU; inputs that are no integers are ones, float64.

    Raises:
        UserError: no batch, or see `call_of`.
    """
    calls = (call_of(criterion, model, loss_of(batches), batch) for batch in batches)
    call = next((call for call in calls if len(call.inputs)), None)
    if call is not None:
        samples = len(call.inputs)
        call = call.map(lambda x: (x[:1] if x.ndim and len(x) == samples else x).detach().to("cpu", copy=True))
        if call.inputs.is_floating_point():
            call = call.of(torch.ones(call.inputs.shape, dtype=torch.float64, device="cpu"))
    first = next((each for each in gather(call) if each is not None), None)
    if first is None:
        raise UserError("at least one batch is needed, for the shape of its inputs; none was given")
    return first


def takes_ids(model: nn.Module, inputs: Tensor) -> bool:
    """Whether inputs are indices into an embedding of the model."""
    embeds = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())
    return embeds and not inputs.is_floating_point()


class _CalledError(BaseException):
    """Ends a loss where it calls the network."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.given, self.named = args, kwargs


def _seen(criterion: str, model: nn.Module, loss: Loss, batch: Any) -> Call:
    """The call that a loss makes first, which is not carried out."""

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _CalledError(args, kwargs)

    hook = model.register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
    try:
        with in_one_line(f"{criterion} cannot prune this network: {LOSS}, fails before it calls the network"):
            loss(model, batch)
    except _CalledError as call:
        found = dict[int | str, Any](enumerate(call.given))
        found.update(call.named.items())
        place = _place(criterion, found)
        args = tuple(None if place == k else each for k, each in enumerate(call.given))
        return Call(found[place], args, {k: v for k, v in call.named.items() if k != place}, place)
    finally:
        hook.remove()
    raise UserError(f"{criterion} cannot prune this network: the loss does not call the network")


def _place(criterion: str, found: dict[int | str, Any]) -> int | str:
    """Where the data are: in the ids, in the one tensor of floating-point numbers, or else in the first of integers."""
    tensors = {place: each for place, each in found.items() if isinstance(each, Tensor) and each.ndim}
    floating = [place for place, each in tensors.items() if each.is_floating_point()]
    if _IDS in tensors:
        return _IDS
    if len(floating) > 1 or not tensors:
        raise UserError(f"{criterion} feeds a network one tensor; loss= calls it with {len(floating)}; {_OTHERS}")
    return floating[0] if floating else next(iter(tensors))


def _mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_mapped(change, each) for each in value)
    return {key: _mapped(change, each) for key, each in value.items()} if type(value) is dict else value
