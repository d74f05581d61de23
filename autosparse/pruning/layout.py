"""The ordered table of a model's prunable tensors, in one flat index space [0, P)."""

import bisect
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from autosparse.errors import UserError

PRUNABLE = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


@dataclass(frozen=True)
class Layer:
    """One prunable weight: its name in the model's state dict and its place in the flat index space.

    `fan_in` and `fan_out` count the inputs and outputs of one unit, kernel positions included, as in
    `torch.nn.init.kaiming_normal_`.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    fan_in: int
    fan_out: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, repr=False)
class Layout:
    """The weights of every convolution and linear layer, in the model's own order; no bias, no normalization.

    A weight that several modules share is listed once.
    """

    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, model: nn.Module) -> "Layout":
        """Read the layout off a model.

        Raises:
            UserError: the model has no convolution and no linear layer, or one whose weight is no parameter, has no
                shape yet, or is not of real floating-point numbers.
        """
        if not isinstance(model, nn.Module):
            raise UserError(f"a layout is that of a torch module, got {type(model).__name__}")
        layers: list[Layer] = []
        seen: set[int] = set()
        offset = 0
        for module_name, module in model.named_modules():
            if not isinstance(module, PRUNABLE) or id(module.weight) in seen:
                continue
            if not isinstance(module.weight, nn.Parameter):
                raise UserError(
                    f"the weight of {module_name} is computed from another (torch.nn.utils.prune or parametrize); "
                    "remove that first"
                )
            _check(module_name or type(module).__name__, module.weight)
            seen.add(id(module.weight))
            weight = module.weight
            kernel = math.prod(weight.shape[2:])
            name = f"{module_name}.weight" if module_name else "weight"
            layers.append(Layer(name, tuple(weight.shape), offset, weight.shape[1] * kernel, weight.shape[0] * kernel))
            offset += weight.numel()
        if not layers:
            raise UserError("the model has no prunable weights; a convolution or linear layer is needed")
        return cls(tuple(layers))

    def __repr__(self) -> str:
        return f"Layout({len(self.layers)} layers, {self.size:,} weights)"

    @cached_property
    def size(self) -> int:
        """P, the number of prunable parameters."""
        return sum(layer.size for layer in self.layers)

    @cached_property
    def _offsets(self) -> list[int]:
        return [layer.offset for layer in self.layers]

    def layer_at(self, index: int) -> Layer:
        """The layer that holds the flat index."""
        return self.layers[bisect.bisect_right(self._offsets, index) - 1]

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The model's prunable parameters by name, in layout order.

        Raises:
            UserError: the model's layout is another one.
        """
        if Layout.of(model) != self:
            raise UserError("the model's prunable tensors are not those of this layout (other names, order or shapes)")
        return {layer.name: model.get_parameter(layer.name) for layer in self.layers}

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Concatenate tensors by name into one flat tensor (P,), on their device and in their dtype."""
        return torch.cat([tensors[layer.name].detach().reshape(-1) for layer in self.layers])

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a flat tensor (P,) in the shapes of the layers; nothing is copied.

        Raises:
            ValueError: `flat` does not have P elements.
        """
        if flat.shape != (self.size,):
            raise ValueError(f"expected a flat tensor of {self.size} elements, got shape {tuple(flat.shape)}")
        return {layer.name: flat[layer.offset : layer.offset + layer.size].view(layer.shape) for layer in self.layers}

    def to_json(self) -> list[dict[str, Any]]:
        """The table as JSON values, one row a layer."""
        return [{**asdict(layer), "shape": list(layer.shape)} for layer in self.layers]

    @classmethod
    def from_json(cls, rows: list[dict[str, Any]]) -> "Layout":
        """The inverse of `to_json`."""
        return cls(tuple(Layer(**{**row, "shape": tuple(row["shape"])}) for row in rows))


def _check(name: str, weight: nn.Parameter) -> None:
    if isinstance(weight, nn.UninitializedParameter):
        raise UserError(f"layer {name} has no shape yet (a lazy layer); run a batch through the model first")
    if not weight.is_floating_point():
        dtype = str(weight.dtype).removeprefix("torch.")
        raise UserError(f"the weight of {name} is {dtype}; only real floating-point weights can be pruned")
