"""Which network is trained on what, and how: the part that runs of IRP and of pruning have in common."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from torch import nn

from autosparse import networks
from autosparse.data import DATASETS, ImageData, sources
from autosparse.errors import UserError, unknown
from autosparse.training import Recipe, find_recipe


@dataclass(frozen=True)
class Setting:
    """Network, data and training."""

    network: str = "lenet-300-100"
    """lenet-300-100, lenet-500-300, resnet18, vgg16, vgg19 or vgg19-4096."""
    dataset: str = "mnist5k"
    """digits, mnist5k, mnist, fashion-mnist, cifar10, cifar100 or tiny-imagenet."""
    data_root: Path | None = None
    """Folder of the data sets' .npz files; $AUTOSPARSE_DATA, or data, if not given."""
    recipe: str = "short"
    """short, paper (tables A.3 and C) or strong."""
    epochs: int | None = None
    """Epochs of each training instead of the recipe's; its learning-rate drops keep their place."""
    batch_size: int | None = None
    """Batch over all processes instead of the recipe's."""
    learning_rate: float | None = None
    """Initial learning rate instead of the recipe's."""
    validation: float | None = None
    """Share of the training images held out to choose an epoch by; 0.1 if not given, 0 with the paper's recipe."""
    grad_batches: int | None = None
    """How many batches of 256 a gradient looks at; the whole training set if not given."""
    fan: Literal["fan_in", "fan_out"] = "fan_in"
    """Mode of the Kaiming normal initial weights."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: forward passes of training under autocast."""
    compile: bool = False
    """Train through torch.compile."""
    channels_last: bool = False
    """Train with images and convolutions channels-last in memory; for a GPU, best with bf16."""

    def check(self) -> None:
        """Refuse what cannot run, before anything is submitted.

        Raises:
            UserError: an unknown name, a recipe that is not there, or a data set that is not.
        """
        if self.network not in networks.NETWORKS:
            raise unknown("network", self.network, networks.NETWORKS)
        if self.dataset not in DATASETS:
            raise unknown("data set", self.dataset, DATASETS)
        if self.grad_batches is not None and self.grad_batches < 1:
            raise UserError(f"--grad-batches must be at least 1, got {self.grad_batches}")
        if not 0.0 <= self.validation_share < 1.0:
            raise UserError(f"--validation must lie in [0, 1), got {self.validation_share}")
        self.make_recipe()
        networks.check(self.network, sources.load(self.dataset, self.data_root).shape)

    def make_recipe(self) -> Recipe:
        """The recipe with everything that was asked for otherwise."""
        recipe = find_recipe(self.recipe, self.network, self.dataset)
        if self.epochs is not None:
            recipe = recipe.with_epochs(self.epochs)
        return replace(
            recipe,
            batch_size=recipe.batch_size if self.batch_size is None else self.batch_size,
            learning_rate=recipe.learning_rate if self.learning_rate is None else self.learning_rate,
            precision=self.precision,
            compile=self.compile,
            channels_last=self.channels_last,
        )

    def make(self, seed: int, accelerator: Accelerator) -> tuple[nn.Module, ImageData]:
        """The network at its initial weights, and the data, on this process's device."""
        images = sources.load(self.dataset, self.data_root)
        model = networks.build(self.network, images.shape, images.classes, seed, self.fan).to(accelerator.device)
        data = ImageData(
            images,
            accelerator.device,
            self.validation_share,
            accelerator.process_index,
            accelerator.num_processes,
        )
        return model, data

    @property
    def validation_share(self) -> float:
        if self.validation is not None:
            return self.validation
        return 0.0 if self.recipe == "paper" else 0.1

    def config(self) -> dict[str, Any]:
        """What decides the result, resolved: the recipe by its values."""
        recipe = asdict(self.make_recipe())
        if not recipe["channels_last"]:  # unsaid, as in runs from before there was a choice: they are the same runs
            del recipe["channels_last"]
        return {
            "network": self.network,
            "dataset": self.dataset,
            "data": sources.fingerprint(self.dataset, self.data_root),
            "fan": self.fan,
            "validation": self.validation_share,
            "grad_batches": self.grad_batches,
            "recipe": {**recipe, "drops": list(recipe["drops"])},
        }

    @property
    def name(self) -> str:
        """The start of a run folder's name."""
        return f"{self.network}_{self.dataset}"
