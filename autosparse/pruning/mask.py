"""Which parameters are kept: a bool over a layout."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from autosparse.errors import UserError
from autosparse.files import replacing
from autosparse.pruning.layout import Layout


@dataclass(frozen=True, eq=False, repr=False)
class Mask:
    """A mask over the prunable parameters of a layout.

    Attributes:
        layout: the index space.
        kept: bool (P,), true where the parameter is kept.
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

    @classmethod
    def full(cls, layout: Layout, device: torch.device | str = "cpu") -> "Mask":
        """The mask that keeps everything."""
        return cls(layout, torch.ones(layout.size, dtype=torch.bool, device=device))

    def to(self, device: torch.device | str) -> "Mask":
        """The mask on another device."""
        return Mask(self.layout, self.kept.to(device))

    @property
    def count(self) -> int:
        """Number of parameters kept."""
        return int(self.kept.count_nonzero())

    @property
    def density(self) -> float:
        """Share of parameters kept."""
        return self.count / self.layout.size

    @property
    def sparsity(self) -> float:
        """Share of parameters removed."""
        return 1.0 - self.density

    def layer_densities(self) -> dict[str, float]:
        """Share kept in each layer, by name."""
        return {name: kept.sum().item() / kept.numel() for name, kept in self.layout.unflatten(self.kept).items()}

    def empty_layers(self) -> list[str]:
        """The layers of which nothing is kept."""
        return [name for name, density in self.layer_densities().items() if density == 0.0]

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> None:
        """Set the removed weights of the model to exactly zero, in place."""
        removed = self.layout.unflatten(~self.kept)
        for name, weight in self.layout.weights(model).items():
            weight.masked_fill_(removed[name].to(weight.device), 0.0)

    def export(self, model: nn.Module) -> None:
        """Hand the mask to `torch.nn.utils.prune`: each layer gets `weight_orig`, `weight_mask` and its hook."""
        self.layout.weights(model)  # the layouts must agree
        for name, kept in self.layout.unflatten(self.kept).items():
            module = model.get_submodule(name.rpartition(".")[0])
            torch_prune.custom_from_mask(module, "weight", kept.to(next(module.parameters()).device))

    def save(self, path: str | Path) -> None:
        """Write the mask as safetensors: a bool tensor a layer, under the weight's own name; atomic."""
        tensors = {name: kept.cpu().contiguous() for name, kept in self.layout.unflatten(self.kept).items()}
        with replacing(Path(path)) as temporary:
            save_file(tensors, temporary, metadata={"layout": json.dumps(self.layout.to_json())})

    @classmethod
    def load(cls, path: str | Path) -> "Mask":
        """Read a mask that `save` wrote.

        Raises:
            UserError: the file is missing, damaged, or no mask.
        """
        if not Path(path).is_file():
            raise UserError(f"no mask at {path}")
        try:
            with safe_open(path, framework="pt") as file:
                layout = Layout.from_json(json.loads(file.metadata()["layout"]))
                return cls(layout, layout.flatten({layer.name: file.get_tensor(layer.name) for layer in layout.layers}))
        except Exception as error:  # safetensors has its own error type, JSON and the table theirs
            raise UserError(f"{path} is not a mask file: {error}") from error
