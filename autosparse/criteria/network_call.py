"""The arguments of a network for a batch, and the tensor among them that holds the data."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from autosparse.criteria.base import Scoring
from autosparse.criteria.failures import LOSS, in_one_line
from autosparse.criteria.loss import CrossEntropy, Loss
from autosparse.distributed import gather
from autosparse.errors import UserError
from autosparse.pruning.prunable import unwrapped

_OTHERS = "snip, iterative-snip and force take any batch with loss=, random and magnitude need none"
_IDS = "input_ids"  # the name of Hugging Face


@dataclass(frozen=True)
class Call:
    """The arguments of a call of a network.

    Attributes:
        args, kwargs: arguments of the call.
        place: position in `args`, or name in `kwargs`, of the tensor (B, ...) that holds the data.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    place: int | str = 0

    @property
    def inputs(self) -> Tensor:
        """Tensor (B, ...) that holds the data."""
        inputs: Tensor = self.args[self.place] if isinstance(self.place, int) else self.kwargs[self.place]
        return inputs

    def __call__(self, model: nn.Module) -> Any:
        """Return the outputs of a model."""
        return model(*self.args, **self.kwargs)

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
    """Return the call of the network for a batch: with it or its first part, or the call that another loss makes.

    Raises:
        UserError: no single tensor holds the data, or the loss fails before it calls the network.
    """
    if not isinstance(loss, CrossEntropy):
        return _call_by_loss(criterion, unwrapped(model), loss, batch)
    inputs = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
    if not isinstance(inputs, Tensor) or not inputs.ndim:
        kind = type(inputs).__name__
        raise UserError(
            f"{criterion} feeds a network one tensor, a batch or its first part, or what loss= calls it with; "
            f"this is a {kind}; {_OTHERS}"
        )
    return Call((inputs,), {})


def first_call(criterion: str, model: nn.Module, scoring: Scoring) -> Call:
    """Return the call of the first sample of any process, on the CPU; inputs that are not integers are float64 ones.

    Raises:
        UserError: there is no batch, or see `call_of`.
    """
    calls = (call_of(criterion, model, scoring.loss, batch) for batch in scoring.batches)
    call = next((call for call in calls if len(call.inputs)), None)
    if call is not None:
        samples = len(call.inputs)
        call = call.map(lambda x: (x[:1] if x.ndim and len(x) == samples else x).detach().to("cpu", copy=True))
        if call.inputs.is_floating_point():
            call = call.with_inputs(torch.ones(call.inputs.shape, dtype=torch.float64, device="cpu"))
    first = next((call for call in gather(call) if call is not None), None)
    if first is None:
        raise UserError("at least one batch is needed, for the shape of its inputs; none was given")
    return first


def takes_ids(model: nn.Module, inputs: Tensor) -> bool:
    """Return True if inputs are indices into an embedding of the model."""
    embeds = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())
    return embeds and not inputs.is_floating_point()


class _CalledError(BaseException):
    """Ends a loss where it calls the network."""

    def __init__(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        super().__init__()
        self.arguments, self.named = arguments, named


def _call_by_loss(criterion: str, model: nn.Module, loss: Loss, batch: Any) -> Call:
    """Return the first call that a loss makes; the network does not run."""

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _CalledError(args, kwargs)

    hook = model.register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
    try:
        with in_one_line(f"{criterion} cannot prune this network: {LOSS}, fails before it calls the network"):
            loss(model, batch)
    except _CalledError as call:
        place = _place(criterion, dict(enumerate(call.arguments)) | call.named)
        return Call(call.arguments, call.named, place)
    finally:
        hook.remove()
    raise UserError(f"{criterion} cannot prune this network: the loss does not call the network")


def _place(criterion: str, arguments: dict[int | str, Any]) -> int | str:
    """Return the place of the ids, of the only floating-point tensor, or else of the first tensor of integers."""
    tensors = {place: value for place, value in arguments.items() if isinstance(value, Tensor) and value.ndim}
    floating = [place for place, value in tensors.items() if value.is_floating_point()]
    if _IDS in tensors:
        return _IDS
    if len(floating) > 1 or not tensors:
        raise UserError(f"{criterion} feeds a network one tensor; loss= calls it with {len(floating)}; {_OTHERS}")
    return floating[0] if floating else next(iter(tensors))
