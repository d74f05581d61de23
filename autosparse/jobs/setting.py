"""Which network is trained on what, and how: the part that runs of IRP and of pruning have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from autosparse import networks
from autosparse.cluster import Job
from autosparse.command import choices
from autosparse.config import NO_IDENTITY, Bounds, Config, defaults, settings
from autosparse.data import sources
from autosparse.errors import UserError
from autosparse.training.recipe import Recipe, RecipeName, find_recipe

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from autosparse.data import ImageData


@dataclass(frozen=True, kw_only=True)
class Setting(Config):
    """Network, data and training."""

    network: Annotated[str, choices(networks.NETWORKS)] = "lenet-300-100"
    """The network."""
    dataset: Annotated[str, choices(sources.DATASETS)] = "mnist5k"
    """What it learns from."""
    data_root: Path | None = field(default=None, metadata=NO_IDENTITY)
    """The folder of the data sets' .npz files; $AUTOSPARSE_DATA, or data, if not given."""
    recipe: RecipeName = "short"
    """How it is trained; paper: tables A.3 and C."""
    epochs: int | None = field(default=None, metadata=NO_IDENTITY)
    """Epochs of each training instead of the recipe's; its learning-rate drops keep their place."""
    batch_size: int | None = field(default=None, metadata=NO_IDENTITY)
    """Batch over all processes instead of the recipe's."""
    learning_rate: float | None = field(default=None, metadata=NO_IDENTITY)
    """Initial learning rate instead of the recipe's."""
    validation: float | None = None
    """Share of the training images held out to choose an epoch by; 0.1 if not given, 0 with the paper's recipe."""
    grad_batches: Annotated[int | None, Bounds(1)] = None
    """How many batches of 256 a gradient looks at; the whole training set if not given."""
    fan: Literal["fan_in", "fan_out"] = "fan_in"
    """Mode of the Kaiming normal initial weights."""
    precision: Literal["float32", "bf16"] = field(default="float32", metadata=NO_IDENTITY)
    """bf16: forward passes of training under autocast."""
    compile: bool = field(default=False, metadata=NO_IDENTITY)
    """Train through torch.compile."""
    channels_last: bool = field(default=False, metadata=NO_IDENTITY)
    """Train with images and convolutions channels-last in memory; for a GPU, best with bf16."""

    def check(self) -> None:
        """Refuse what cannot run, before anything is submitted.

        Raises:
            UserError: an unknown name, a recipe that is not there, or a data set that is not.
        """
        networks.check(self.network)
        sources.check(self.dataset, self.data_root)
        if not 0.0 <= self.validation_share < 1.0:
            raise UserError(f"the validation share must lie in [0, 1), got {self.validation_share}")
        self.make_recipe()
        networks.check(self.network, sources.shape(self.dataset, self.data_root))

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

    def make(self, seed: int, accelerator: "Accelerator") -> "tuple[nn.Module, ImageData]":
        """The network at its initial weights, and the data, on this process's device."""
        from autosparse.data import ImageData

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

    def derived(self) -> dict[str, Any]:
        """What decides the result, resolved: the recipe by its values, the data by their digest."""
        return {
            "data": sources.fingerprint(self.dataset, self.data_root),
            "validation": self.validation_share,
            "recipe": settings(self.make_recipe()),
        }

    @property
    def name(self) -> str:
        """The start of a run folder's name."""
        return f"{self.network}_{self.dataset}"


@dataclass(frozen=True, kw_only=True)
class TrainingRun(Job):
    """A run that trains a network; those of IRP and of pruning are some."""

    setting: Setting = field(default_factory=Setting)
    output: Path = field(default=Path("runs"), metadata=NO_IDENTITY)
    """The folder of all runs."""

    def check(self) -> None:
        self.setting.check()

    def derived(self) -> dict[str, Any]:
        return self.setting.derived()

    @classmethod
    def defaults(cls) -> Mapping[str, Any]:
        return {**super().defaults(), "recipe": defaults(Recipe)}
