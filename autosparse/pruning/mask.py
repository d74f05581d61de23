"""The mask of a network: which of the weights of a layout are kept."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autosparse import tensors
from autosparse.errors import UserError, unknown
from autosparse.pruning.compress import compress, restore
from autosparse.pruning.export import export
from autosparse.pruning.hold import Hold
from autosparse.pruning.layout import Layout
from autosparse.pruning.prunable import clear, local_part
from autosparse.pruning.summary import Summary


@dataclass(frozen=True, eq=False, repr=False)
class Mask:
    """A mask over the prunable parameters of a layout.

    Attributes:
        layout: the index space.
        kept: bool (P,), true where the parameter is kept.

    Examples:
        >>> mask = autosparse.prune(model, criterion="magnitude", sparsity=0.9)
        >>> mask.count, mask["0.weight"].shape
        (192, torch.Size([64, 20]))
        >>> mask.apply_(model)
        >>> int(model[0].weight.count_nonzero() + model[2].weight.count_nonzero())
        192
    """

    layout: Layout
    kept: Tensor

    def __post_init__(self) -> None:
        if self.kept.dtype != torch.bool or self.kept.shape != (self.layout.size,):
            raise ValueError(
                f"a mask is bool of shape ({self.layout.size},), got {self.kept.dtype} {tuple(self.kept.shape)}"
            )

    def __repr__(self) -> str:
        return f"Mask({self.count:,} of {self.layout.size:,} weights in {len(self.layout.layers)} layers)"

    def __eq__(self, other: object) -> bool:
        """Whether another mask keeps the same parameters of the same layout."""
        return (
            isinstance(other, Mask)
            and self.layout == other.layout
            and torch.equal(self.kept, other.kept.to(self.kept.device))
        )

    __hash__ = None  # type: ignore[assignment]  # as of all that is compared by its values

    @classmethod
    def full(cls, layout: Layout, device: torch.device | str = "cpu") -> "Mask":
        """Return the mask that keeps everything."""
        return cls(layout, torch.ones(layout.size, dtype=torch.bool, device=device))

    def to(self, device: torch.device | str) -> "Mask":
        """Return the mask on another device."""
        return Mask(self.layout, self.kept.to(device))

    @property
    def count(self) -> int:
        """Number of parameters kept."""
        return int(np.count_nonzero(self.kept) if self.kept.device.type == "cpu" else self.kept.count_nonzero())

    @property
    def density(self) -> float:
        """Fraction of the parameters that is kept."""
        return self.count / self.layout.size

    @property
    def sparsity(self) -> float:
        """Fraction of the parameters that is removed."""
        return 1.0 - self.density

    def __getitem__(self, name: str) -> Tensor:
        """Return which weights of a layer are kept, as a bool tensor of the layer's shape, on the memory of `kept`.

        Raises:
            UserError: no layer has the name.
        """
        parts = self.layout.unflatten(self.kept)
        if name not in parts:
            raise unknown("layer", name, parts)
        return parts[name]

    def layer_densities(self) -> dict[str, float]:
        """Return the fraction that is kept of each layer, by name."""
        return {name: kept.sum().item() / kept.numel() for name, kept in self.layout.unflatten(self.kept).items()}

    def empty_layers(self) -> list[str]:
        """Return the names of the layers of which nothing is kept."""
        return [name for name, density in self.layer_densities().items() if density == 0.0]

    def apply_(self, model: nn.Module) -> None:
        """Set the removed weights of a model, wrapped or not, to exactly zero, in place."""
        kept = self.layout.unflatten(self.kept)
        for name, weight in self.layout.weights(model).items():
            clear(weight, local_part(kept[name], weight))

    def hold(self, model: nn.Module, *optimizers: Optimizer) -> Hold:
        """Set the removed weights to zero, and keep them there while optimizers train the others.

        They are zero whenever the model is called, after every step of an optimizer (each sets its own weights) and
        after every `load_state_dict` of the model. Their gradients are zero before they are averaged over processes,
        clipped or added to momentum (those of FSDP2 before each step only), and so is the state of the optimizers.
        Copies of the model are not held.

        Args:
            model: the model as the loop calls it, with its wrappers.
            optimizers: every optimizer that trains the model; wrappers (Accelerate's, Lookahead, SAM) are followed.

        Returns:
            A handle: `apply()` sets the removed weights to zero after a change by other means; `release()`, or the
            end of a `with` block, ends the hold.

        Raises:
            UserError: the model has other tensors than the layout or scripted layers; an optimizer is not one, or none
                has any of its weights. Nothing is changed then.

        Warns:
            UserWarning: the mask prunes layers that are frozen, or that train in none of the optimizers.
        """
        return Hold(self.layout, self.kept, model, *optimizers)

    def export(self, model: nn.Module, batch: Any) -> None:
        """Hand the mask to `torch.nn.utils.prune`: each layer gets `weight_orig`, `weight_mask` and its hook.

        The hook computes the weight when the layer's own module is called; code that reads the weight in another way
        would get an old one.

        Args:
            model: the model that the mask was made for, wrapped or not.
            batch: inputs of one forward pass, as for `summary`; they show which weights are read in another way.

        Raises:
            UserError: the model has other tensors than the layout or does not take the batch, or the hook does not
                reach a layer (named): it is tied, recurrent, in attention or in a TransformerEncoderLayer, or its
                weight is read without a call of its module. Nothing is changed then.
        """
        export(self.layout, self.kept, model, batch)

    def summary(self, model: nn.Module, batch: Any = None) -> Summary:
        """Return a table of the matrices of a model: the kept fraction of each, or why it is dense.

        Args:
            model: the model that the mask was made for, wrapped or not.
            batch: inputs of one forward pass, on the model's device: a tensor, a tuple of arguments, or a mapping of
                keyword arguments. Only with it multiplications are counted; unknown ones (fused recurrent layers)
                are a dash, and missing in the frame.

        Raises:
            UserError: the model has other tensors than the layout, or does not take the batch.
        """
        return Summary.of(self.layout, self.kept, model, batch)

    def save(self, path: str | Path) -> None:
        """Write the mask as safetensors, one bool tensor per layer under the weight's own name.

        The write is atomic. Missing folders are created.
        """
        about = {"layout": json.dumps(self.layout.to_json())}
        tensors.save(Path(path), self.layout.unflatten(self.kept), about)

    @classmethod
    def load(cls, path: str | Path) -> "Mask":
        """Read a mask that `save` wrote.

        Raises:
            UserError: the file is missing, damaged, or not a mask.
        """
        if not Path(path).is_file():
            raise UserError(f"no mask at {path}")
        try:
            kept, about = tensors.load(Path(path))
            layout = Layout.from_json(json.loads(about["layout"]))
            return cls(layout, layout.flatten(kept))
        except Exception as error:  # safetensors has its own error type, JSON and the table theirs
            raise UserError(
                f"{path} is not a mask file, or damaged: {error}; Mask.restore reads what compress wrote"
            ) from error

    def compress(self, model: nn.Module, path: str | Path) -> None:
        """Write a model as safetensors with only the kept weights of its pruned tensors and their positions.

        The write is atomic. Missing folders are created. Removed weights count as zero, whatever their values.

        Raises:
            UserError: the model has other tensors than the layout, or a state that is not a tensor.
        """
        compress(self.layout, self.kept, model, path)

    @classmethod
    def restore(cls, model: nn.Module, path: str | Path) -> "Mask":
        """Load a file that `compress` wrote into a model, bit for bit.

        Returns:
            The mask, on the CPU.

        Raises:
            UserError: the file is missing, damaged, or of a model with other tensors (names the first).
        """
        return cls(*restore(model, path))
