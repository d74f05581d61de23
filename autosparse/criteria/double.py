"""A network in float64, even if its forward pass converts tensors to another type."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_NARROWING = ("float", "half", "bfloat16")  # methods of a tensor
EMBEDDINGS = (F.embedding, F.embedding_bag)

Embedding = Callable[[Tensor, Tensor], Tensor]
"""(indices, output of an embedding for them) -> replacement of that output."""


class InDouble(TorchFunctionMode):
    """Converts tensors that meet float64 to float64, and skips conversions to narrower types.

    So `.float()`, `.to(torch.float16)` and constants that a module holds in float32 do no harm; autocast leaves
    float64 alone by itself. A tensor that is written in place keeps its type.

    Args:
        embedding: replaces the outputs of embeddings. Default: they stay.
    """

    def __init__(self, embedding: Embedding | None = None) -> None:
        super().__init__()
        self._embedding = embedding

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self._embedding and func in EMBEDDINGS:
            indices = args[0] if args else kwargs["input"]
            return self._embedding(indices, func(*args, **kwargs).double())
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
