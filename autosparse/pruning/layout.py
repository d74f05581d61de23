"""The ordered table of a model's prunable tensors, in one flat index space [0, P)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from autosparse.errors import UserError
from autosparse.pruning.prunable import matrices, parameters_by_name, refuse_aliases


@dataclass(frozen=True)
class Layer:
    """One prunable weight: its name in the model's state dict and its place in the flat index space.

    `fan_in` and `fan_out` count the inputs and outputs of one unit, kernel positions included, as in
    `torch.nn.init.kaiming_normal_`.

    Examples:
        >>> from autosparse.pruning import Layout
        >>> Layout.of(model).layers[1]
        Layer(name='2.weight', shape=(10, 64), offset=1280, fan_in=64, fan_out=10)
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    fan_in: int
    fan_out: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclass(frozen=True, repr=False)
class Layout:
    """The matrices and kernels of a model that multiply, in the model's own order.

    Those of linear layers, convolutions, attention and recurrent layers; no bias, normalization, embedding, head tied
    to an embedding, or position table. A weight with several names is listed once, under the first.

    Examples:
        >>> from autosparse.pruning import Layout
        >>> layout = Layout.of(model, exclude="0.*")
        >>> layout
        Layout(1 layers, 640 weights)
        >>> layout.flatten(layout.weights(model)).shape
        torch.Size([640])
    """

    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> "Layout":
        """Return the layout of a model, which DistributedDataParallel or torch.compile may wrap.

        Args:
            model: model to prune, wrapped or not.
            include: shell patterns of names of parameters to add, such as `*.experts.*`.
            exclude: shell patterns of names of parameters to leave out, also where `include` matches.

        Raises:
            UserError: the model has nothing prunable, a layer without a shape yet, two Parameters in one memory, or no
                prunable parameter that a pattern matches.
        """
        found = matrices(model, include, exclude)
        prunable = [matrix for matrix in found if matrix.why_dense is None]
        if not prunable:
            left = "; ".join(f"{matrix.name} is {matrix.why_dense}" for matrix in found[:3])
            raise UserError(
                f"the model has no prunable weights{f' ({left})' if left else ''}; "
                "a convolution, a linear, attention or recurrent layer is needed, or include= with parameter names"
            )
        refuse_aliases([matrix.tensor for matrix in prunable], model)
        offsets = accumulate((matrix.tensor.numel() for matrix in prunable), initial=0)
        return cls(
            tuple(
                Layer(matrix.name, tuple(matrix.tensor.shape), offset, matrix.fan_in, matrix.fan_out)
                for matrix, offset in zip(prunable, offsets, strict=False)
            )
        )

    def __repr__(self) -> str:
        return f"Layout({len(self.layers)} layers, {self.size:,} weights)"

    @cached_property
    def size(self) -> int:
        """P, the number of prunable parameters."""
        return sum(layer.size for layer in self.layers)

    def layer_at(self, index: int) -> Layer:
        """Return the layer of a flat index."""
        return next(layer for layer in reversed(self.layers) if layer.offset <= index)

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the model's prunable parameters by name, in layout order; the model may be wrapped.

        Raises:
            UserError: the model has other tensors (names the first that differs).
        """
        named = parameters_by_name(model)
        for layer in self.layers:
            shape = tuple(named[layer.name].shape) if layer.name in named else None
            if shape != layer.shape:
                has = f"{shape} there" if shape else "not there"
                raise UserError(
                    f"the model's prunable tensors are not those of this layout: {layer.name} {layer.shape} is {has}"
                )
        return {layer.name: named[layer.name] for layer in self.layers}

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Concatenate tensors by name into one flat tensor (P,), on their device and in their dtype."""
        return torch.cat([tensors[layer.name].detach().reshape(-1) for layer in self.layers])

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of a flat tensor (P,) in the shapes of the layers.

        Raises:
            ValueError: `flat` does not have P elements.
        """
        if flat.shape != (self.size,):
            raise ValueError(f"expected a flat tensor of {self.size} elements, got shape {tuple(flat.shape)}")
        return {layer.name: flat[layer.offset : layer.offset + layer.size].view(layer.shape) for layer in self.layers}

    def to_json(self) -> list[dict[str, Any]]:
        """Return the table as JSON values, one row per layer."""
        return [{**asdict(layer), "shape": list(layer.shape)} for layer in self.layers]

    @classmethod
    def from_json(cls, rows: list[dict[str, Any]]) -> "Layout":
        """Read the table that `to_json` returned."""
        return cls(tuple(Layer(**{**row, "shape": tuple(row["shape"])}) for row in rows))
