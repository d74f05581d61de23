"""What the data vary in: the standard deviation of each element of the inputs, or of what embeddings give for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from autosparse.criteria.base import Batches
from autosparse.criteria.failures import naming_layers
from autosparse.criteria.flow import first_input, inputs_of, takes_ids
from autosparse.criteria.gradient import scoring_mode
from autosparse.distributed import all_reduce
from autosparse.errors import UserError
from autosparse.pruning.prunable import unwrapped

_MEMO = "deviation"


@dataclass(frozen=True)
class Deviation:
    """What to feed a network so that what flows is what the data vary in.

    Attributes:
        inputs: float64 (1, ...), the deviations themselves; or, where the network takes indices, one sample of them.
        embedded: for each time that the network embeds, the deviations, float64 (...), or None for what is the same in
            every sample, such as positions; None where the inputs are no indices.
    """

    inputs: Tensor
    embedded: Sequence[Tensor | None] | None = None

    @property
    def is_zero(self) -> bool:
        """Whether all samples are the same."""
        parts = [self.inputs] if self.embedded is None else [part for part in self.embedded if part is not None]
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
    first = first_input(criterion, batches)
    if takes_ids(model, first):
        found = _of_embeddings(criterion, unwrapped(model), batches, first.to(device))
    else:
        moments = _Moments(first.shape[1:], device)
        for batch in batches:
            inputs = inputs_of(criterion, batch)
            _check_shape(criterion, first, inputs)
            moments.add(inputs.to(device, torch.float64))
        found = Deviation(moments.deviation()[None])
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
        squares = self._squares / self._samples
        variance = squares - (self._sums / self._samples).square()
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


def _of_embeddings(criterion: str, model: nn.Module, batches: Batches, first: Tensor) -> Deviation:
    def embedded(inputs: Tensor) -> list[Tensor | None]:
        """What is embedded for these inputs, (B, ...) each; None for what is not a sample's own."""
        problem = f"{criterion} cannot prune this network"
        with scoring_mode(model, "running"), naming_layers(problem, model), _Embeddings() as noted, torch.no_grad():
            model(inputs)
        own = [
            ids.shape[:1] == given.shape[:1] == inputs.shape[:1] and ids.ndim == inputs.ndim
            for ids, given in noted.seen
        ]
        return [given.double() if mine else None for mine, (_, given) in zip(own, noted.seen, strict=True)]

    # by two samples: what is shared by all has a first dimension of 1, too
    moments = [
        None if given is None else _Moments(given.shape[1:], first.device)
        for given in embedded(first.expand(2, *first.shape[1:]))
    ]
    for batch in batches:
        inputs = inputs_of(criterion, batch).to(first.device)
        _check_shape(criterion, first, inputs)
        for each, given in zip(moments, embedded(inputs), strict=True):
            if each is not None and given is not None:
                each.add(given)
    return Deviation(first, [None if each is None else each.deviation() for each in moments])


def _check_shape(criterion: str, first: Tensor, inputs: Tensor) -> None:
    if inputs.shape[1:] != first.shape[1:]:
        both = " and ".join(str(tuple(each.shape[1:])) for each in (first, inputs))
        raise UserError(f"{criterion} compares inputs element by element; they are of shapes {both}")
