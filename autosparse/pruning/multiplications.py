"""How many multiplications of a forward pass each matrix takes part in."""

import bisect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from autosparse.errors import UserError
from autosparse.pruning.prunable import unwrapped

_COPIES = {torch.ops.aten.clone, torch.ops.aten._to_copy}  # of a weight, as autocast makes them


def multiplications(model: nn.Module, matrices: Mapping[str, Tensor], batch: Any) -> dict[str, int]:
    """Multiplications in one forward pass of a batch, by name of the matrix.

    Those of which no operation with a known count was seen are left out: fused recurrent layers, bilinear ones, and
    what the model does not use.

    Args:
        model: called in eval mode without gradients; its modes are put back.
        matrices: the parameters, by name.
        batch: a tensor, a tuple of arguments, or a mapping of keyword arguments, on the device of the model.

    Raises:
        UserError: the model does not take the batch.
    """
    return _observed(model, matrices, batch).counts


def weights_read(model: nn.Module, weights: Mapping[str, Tensor], batch: Any) -> set[str]:
    """The names of the weights that any operation of one forward pass of a batch reads.

    Args, raises: see `multiplications`.
    """
    return _observed(model, weights, batch).read


def _observed(model: nn.Module, matrices: Mapping[str, Tensor], batch: Any) -> "_Counter":
    counter = _Counter(matrices)
    with _evaluating(model), torch.no_grad(), counter:
        try:
            if isinstance(batch, Mapping):
                unwrapped(model)(**batch)
            else:
                unwrapped(model)(*(batch if isinstance(batch, tuple | list) else (batch,)))
        except (RuntimeError, TypeError, IndexError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"the model does not take this batch of inputs: {reason}; "
                "give a tensor, a tuple of arguments, or a mapping of keyword arguments"
            ) from error
    return counter


class _Counter(TorchDispatchMode):
    """Sees every operation, and whose memory its operands lie in."""

    def __init__(self, matrices: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.read: set[str] = set()
        self._places = [(tensor.data_ptr(), tensor.nbytes, name) for name, tensor in matrices.items()]
        self._places.sort()
        self._alive: list[Tensor] = []  # copies of weights: their memory must not become another tensor's

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in _COPIES and (name := self._name(args[0])):
            self._alive.append(result)
            bisect.insort(self._places, (result.data_ptr(), result.nbytes, name))
        operands = {name for leaf in tree_leaves(args) if (name := self._name(leaf)) is not None}
        self.read |= operands
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            for name in operands:
                count = formula(*args, **(kwargs or {}), out_val=result) // 2  # a multiplication and an addition
                self.counts[name] = self.counts.get(name, 0) + count
        return result

    def _name(self, operand: Any) -> str | None:
        """The matrix that a tensor is, or is a view of."""
        if not isinstance(operand, Tensor) or not operand.numel() or operand.is_meta:
            return None
        place = bisect.bisect_right(self._places, operand.data_ptr(), key=lambda place: place[0]) - 1
        if place < 0:
            return None
        start, size, name = self._places[place]
        return name if operand.data_ptr() < start + size else None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and attention without its fused path, which cannot be looked into."""
    training = {module: module.training for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval()
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in training.items():
            module.training = mode
