"""The weights that a forward pass reads, and the number of multiplications of each."""

import bisect
from collections import Counter
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


def observed(model: nn.Module, matrices: Mapping[str, Tensor], batch: Any) -> "WeightObserver":
    """Run one forward pass of a batch in evaluation mode without gradients, and return what it did with matrices.

    Args:
        model: model whose modes are restored afterwards.
        matrices: the parameters, by name.
        batch: a tensor, a tuple of arguments, or a mapping of keyword arguments, on the device of the model.

    Raises:
        UserError: the model does not take the batch.
    """
    observer, inner = WeightObserver(matrices), unwrapped(model)
    with _evaluating(model), torch.no_grad(), observer:
        try:
            if isinstance(batch, Mapping):
                inner(**batch)
            else:
                inner(*(batch if isinstance(batch, tuple | list) else (batch,)))
        except (RuntimeError, TypeError, IndexError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"the model does not take this batch of inputs: {reason}; "
                "give a tensor, a tuple of arguments, or a mapping of keyword arguments"
            ) from error
    return observer


class WeightObserver(TorchDispatchMode):
    """Sees every operation, and the matrices whose memory its operands use.

    Attributes:
        read: names of the matrices that any operation reads.
        multiplications: number of multiplications by name of the matrix. Matrices that no operation of a known count
            takes are missing, such as those of fused recurrent layers and unused ones.
    """

    def __init__(self, matrices: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.read: set[str] = set()
        self.multiplications = Counter[str]()
        self._places = sorted((tensor.data_ptr(), tensor.nbytes, name) for name, tensor in matrices.items())
        self._copies: list[Tensor] = []  # Their memory must not become another tensor's.

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in _COPIES and (name := self._name(args[0])):
            self._copies.append(result)
            bisect.insort(self._places, (result.data_ptr(), result.nbytes, name))
        operands = {name for leaf in tree_leaves(args) if (name := self._name(leaf)) is not None}
        self.read |= operands
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            for name in operands:  # An operation of a FLOP counter is a multiplication or an addition.
                self.multiplications[name] += formula(*args, **(kwargs or {}), out_val=result) // 2
        return result

    def _name(self, operand: Any) -> str | None:
        """Return the name of the matrix that a tensor is, or is a view of."""
        if not isinstance(operand, Tensor) or not operand.numel() or operand.is_meta:
            return None
        place = bisect.bisect_right(self._places, operand.data_ptr(), key=lambda place: place[0]) - 1
        if place < 0:
            return None
        start, size, name = self._places[place]
        return name if operand.data_ptr() < start + size else None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode, and attention without its fused path, which hides its operations."""
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
