"""A network in float64, whatever its forward pass does to make it something else."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_NARROWING = ("float", "half", "bfloat16")  # methods of a tensor
_EMBEDDINGS = (F.embedding, F.embedding_bag)

Embedding = Callable[[Tensor, Tensor], Tensor]
"""(indices, what an embedding gives for them) -> what it is to give instead."""


class InDouble(TorchFunctionMode):
    """Inside, what meets float64 becomes float64, and what would become narrower does not.

    So `.float()`, `.to(torch.float16)` and constants that a module holds in float32 do no harm; autocast leaves
    float64 alone by itself. What is written to in place keeps its type.

    Args:
        embedding: what embeddings give instead; as they do, if None.
    """

    def __init__(self, embedding: Embedding | None = None) -> None:
        super().__init__()
        self._embedding = embedding

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self._embedding and func in _EMBEDDINGS:
            indices = args[0] if args else kwargs["input"]
            return self._embedding(indices, func(*args, **kwargs).double())
        if name in _NARROWING:
            return args[0].double()
        args, kwargs = _mapped(_widened_type, args), _mapped(_widened_type, kwargs)
        in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if not in_place and _any(lambda x: _is(x, torch.float64), (args, kwargs)):
            args, kwargs = _mapped(_widened, args), _mapped(_widened, kwargs)
        return func(*args, **kwargs)


def _is(value: Any, *dtypes: torch.dtype) -> bool:
    return isinstance(value, Tensor) and value.dtype in dtypes


def _widened(value: Any) -> Any:
    return value.double() if _is(value, *_NARROW) else value


def _widened_type(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same nested tuples, lists and dictionaries of changed values."""
    if type(value) in (tuple, list):
        return type(value)(_mapped(change, each) for each in value)
    if type(value) is dict:
        return {key: _mapped(change, each) for key, each in value.items()}
    return change(value)


def _any(holds: Callable[[Any], bool], value: Any) -> bool:
    if type(value) in (tuple, list):
        return any(_any(holds, each) for each in value)
    if type(value) is dict:
        return any(_any(holds, each) for each in value.values())
    return holds(value)
