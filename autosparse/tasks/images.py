"""Classification of images, with a network and a data set by name."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from autosparse import networks, registry
from autosparse.command import choices
from autosparse.config import NO_IDENTITY, Config
from autosparse.errors import UserError
from autosparse.tasks import arrays
from autosparse.tasks.base import Split, Task
from autosparse.tasks.recipe import Recipe, RecipeName, find_recipe

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset


@dataclass(frozen=True, kw_only=True)
class Images(Config, Task):
    """A classifier of images."""

    network: Annotated[str, choices(networks.NETWORKS)] = field(default="lenet-300-100", metadata=NO_IDENTITY)
    """A network by name, or your own package.module:function or path/file.py:function, (shape, classes) -> module."""
    source: Annotated[str, choices(arrays.DATASETS, name="dataset")] = field(default="mnist5k", metadata=NO_IDENTITY)
    """Data set by name."""
    data_root: Path | None = field(default=None, metadata=NO_IDENTITY)
    """Folder of the .npz files of the data sets. Default: $AUTOSPARSE_DATA, or else data."""
    recipe_name: Annotated[RecipeName, tyro.conf.arg(name="recipe")] = field(default="short", metadata=NO_IDENTITY)
    """Recipe of the training; paper: tables A.3 and C; converged: so long that twice as long changes little."""
    validation: float | None = field(default=None, metadata=NO_IDENTITY)
    """Fraction of the training images held out to choose an epoch. Default: 0.1, or 0 with the recipe paper."""
    fan: Literal["fan_in", "fan_out"] = "fan_in"
    """Mode of the Kaiming normal initial weights."""
    init: Literal["kaiming", "torch"] = field(default="kaiming", metadata=NO_IDENTITY)
    """Initial weights. kaiming: Kaiming normal, with biases of zero; torch: PyTorch's default of each layer, as in the
    paper's code for LeNet-300-100."""

    def check(self) -> None:
        networks.check(self.network)
        absent = self.absent()
        if not 0.0 <= self.validation_fraction < 1.0:
            raise UserError(f"the validation fraction must lie in [0, 1), got {self.validation_fraction}")
        own = self.network not in networks.NETWORKS
        if self.init != "kaiming" and (self.fan != "fan_in" or own):
            raise UserError(f"init {self.init} is for networks by name, and has no fan")
        if self.fan != "fan_in" and own:
            raise UserError(f"fan {self.fan} is for networks by name; {self.network} draws its own weights")
        find_recipe(self.recipe_name, self.network, self.source)
        if not absent:
            networks.check(self.network, arrays.shape(self.source, self.data_root))

    @property
    def recipe(self) -> Recipe:
        """Recipe by its name, for this network on this data set."""
        return find_recipe(self.recipe_name, self.network, self.source)

    @property
    def validation_fraction(self) -> float:
        """Fraction of the training images held out."""
        if self.validation is not None:
            return self.validation
        return 0.0 if self.recipe_name == "paper" else 0.1

    def resolved(self) -> dict[str, Any]:
        code = {} if self.network in networks.NETWORKS else {"network_code": registry.digest_of(self.network)}
        init = {} if self.init == "kaiming" else {"init": self.init}  # Earlier runs do not have it.
        return {"validation": self.validation_fraction, **init, **code}

    @property
    def variant(self) -> str:
        return "" if self.init == "kaiming" else f"-{self.init}"

    def files(self) -> list[Path]:
        return [] if self.network in networks.NETWORKS else [registry.source_of(self.network)]

    def absent(self) -> str | None:
        return arrays.absent(self.source, self.data_root)

    def digest(self) -> str:
        return arrays.fingerprint(self.source, self.data_root)

    def model(self) -> "nn.Module":
        images = arrays.load(self.source, self.data_root)
        return networks.draw(self.network, images.shape, images.classes, self.fan, self.init)

    def dataset(self, split: Split) -> "Dataset[Any] | None":
        """Return normalized images and labels on the CPU; see `ImageSet`."""
        from autosparse.tasks.image_set import image_set

        return image_set(arrays.load(self.source, self.data_root), split, self.validation_fraction)

    def loss(self, model: "nn.Module", batch: Any) -> "Tensor":
        """Return the mean cross-entropy."""
        from torch.nn import functional as F

        inputs, targets = batch
        return F.cross_entropy(model(inputs), targets)

    def metrics(self, model: "nn.Module", batch: Any) -> "dict[str, tuple[Tensor, Tensor]]":
        """Return `accuracy` as the number of correct predictions and the number of images."""
        import torch

        inputs, targets = batch
        correct = (model(inputs).argmax(1) == targets).sum()
        return {"accuracy": (correct, torch.full_like(correct, len(targets)))}

    @property
    def scoring_batch(self) -> int:
        return 256  # images that batch norm sees together

    @property
    def evaluation_batch(self) -> int:
        return 1024
