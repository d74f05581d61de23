"""The standard deviation of each element of the inputs, or of the values that embeddings give for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from autosparse.criteria.base import Batches
from autosparse.criteria.failures import naming_layers
from autosparse.criteria.feeding import Call, call_of, first_call, takes_ids
from autosparse.criteria.gradient import scoring_mode
from autosparse.criteria.loss import loss_of
from autosparse.distributed import all_reduce
from autosparse.errors import UserError
from autosparse.pruning.prunable import unwrapped

_MEMO = "deviation"


@dataclass(frozen=True)
class Deviation:
    """What to feed a network so that only elements that differ between inputs bring something into it.

    Attributes:
        call: with one input, float64 (1, ...), the deviations themselves; or, where the network takes indices, of one
            sample.
        embedded: for each time that the network embeds, the deviations, float64 (...), zeros for what is the same in
            every sample, such as positions; None where the inputs are no indices.
    """

    call: Call
    embedded: Sequence[Tensor] | None = None

    @property
    def is_zero(self) -> bool:
        """Whether all samples are the same."""
        parts = [self.call.inputs] if self.embedded is None else self.embedded
        return not any(part.any() for part in parts)

    def embedding(self, scale: float) -> Callable[[Tensor, Tensor], Tensor]:
        """What embeddings are to give, from the first to the last: their deviations, so many times."""
        parts = iter(self.embedded or ())

        def give(indices: Tensor, given: Tensor) -> Tensor:
            part = next(parts, None)  # beside inputs that are no indices, what is embedded is the same for all
            return torch.zeros_like(given) if part is None else (scale * part).expand_as(given)

        return give


def deviation(criterion: str, model: nn.Module, batches: Batches, device: torch.device) -> Deviation:
    """The deviation over the samples of all processes.

    Costs a pass over the batches; where inputs are indices, through the network, whose embeddings are looked at. Of
    batches that have a `memo` it is found out once.

    Raises:
        UserError: no batches, inputs that are not finite or of several shapes, or a network that fails (names the
            layer).
    """
    memo: dict[str, Any] | None = getattr(batches, "memo", None)
    if memo is not None and _MEMO in memo:
        found: Deviation = memo[_MEMO]
        return found
    first = first_call(criterion, model, batches).map(lambda x: x.to(device))
    if takes_ids(model, first.inputs):
        found = _of_embeddings(criterion, unwrapped(model), batches, first)
    else:
        moments = _Moments(first.inputs.shape[1:], device)
        for batch in batches:
            inputs = call_of(criterion, model, loss_of(batches), batch).inputs
            _check_shape(criterion, first.inputs, inputs)
            moments.add(inputs.to(device, torch.float64))
        found = Deviation(first.of(moments.deviation()[None]))
    if memo is not None:
        memo[_MEMO] = found
    return found


class _Moments:
    """Sums of values and of their squares, element by element."""

    def __init__(self, shape: torch.Size, device: torch.device) -> None:
        self._sums, self._squares = (torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(2))
        self._samples = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, values: Tensor) -> None:
        self._sums += values.sum(0)
        self._squares += values.square().sum(0)
        self._samples += len(values)

    def deviation(self) -> Tensor:
        """Over all processes.

        Raises:
            UserError: a value is not finite.
        """
        all_reduce(self._sums, self._squares, self._samples)
        if not self._squares.isfinite().all():
            raise UserError("the inputs are not finite, or what is embedded for them is not")
        samples = self._samples.clamp_min(1)
        squares = self._squares / samples
        variance = squares - (self._sums / samples).square()
        # of a constant, rounding leaves a little
        return torch.where(variance > 1e-12 * squares, variance, 0.0).sqrt()


class _Embeddings(TorchFunctionMode):
    """Notes (indices, what is given) of everything that is embedded."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = func(*args, **(kwargs or {}))
        if func in (F.embedding, F.embedding_bag):
            self.seen.append((args[0] if args else (kwargs or {})["input"], given))
        return given


def _of_embeddings(criterion: str, model: nn.Module, batches: Batches, first: Call) -> Deviation:
    def embedded(call: Call) -> list[tuple[bool, Tensor]]:
        """The embeddings that a call looks up, (B, ...) each, and whether each sample has its own."""
        problem = f"{criterion} cannot prune this network"
        with scoring_mode(model, "running"), naming_layers(problem, model), _Embeddings() as noted, torch.no_grad():
            call(model)
        of = call.inputs
        return [
            (ids.shape[:1] == given.shape[:1] == of.shape[:1] and ids.ndim == of.ndim, given.double())
            for ids, given in noted.seen
        ]

    device = first.inputs.device
    moments = [_Moments(given.shape[1:], device) for _, given in embedded(first)]
    for batch in batches:
        call = call_of(criterion, model, loss_of(batches), batch).map(lambda x: x.to(device))
        _check_shape(criterion, first.inputs, call.inputs)
        seen = embedded(call)
        if len(seen) != len(moments):
            raise UserError(f"{criterion} cannot prune this network: it embeds more for some batches than for others")
        for each, (own, given) in zip(moments, seen, strict=True):
            if own:  # what all samples share, such as positions, is their own in a batch of one: it varies in nothing
                each.add(given)
    return Deviation(first, [each.deviation() for each in moments])


def _check_shape(criterion: str, first: Tensor, inputs: Tensor) -> None:
    if inputs.shape[1:] != first.shape[1:]:
        both = " and ".join(str(tuple(each.shape[1:])) for each in (first, inputs))
        raise UserError(
            f"{criterion} compares inputs element by element; they are of shapes {both}; pad them, or take snip"
        )
