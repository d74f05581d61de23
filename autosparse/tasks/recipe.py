"""Recipes of training: the paper's (tables A.3 and C), and shorter or stronger ones."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

import tyro

from autosparse.config import Bounds, Config
from autosparse.errors import UserError, unknown

SET = tyro.conf.Suppress  # marks fields that have an option of their own for every task


@dataclass(frozen=True)
class Recipe(Config):
    """All options of a training run except network, data and seed."""

    epochs: Annotated[int, Bounds(1), SET]
    optimizer: Literal["sgd", "nesterov", "adam", "adamw"]
    """`sgd` has no momentum; `nesterov` has 0.9; `adamw` decays parameters of two dimensions and more, apart from the
    gradient."""
    learning_rate: Annotated[float, Bounds(0, exclusive=True), SET]
    batch_size: Annotated[int, Bounds(1), SET] = 128
    """Samples per step over all processes."""
    weight_decay: Annotated[float, Bounds(0)] = 5e-4
    """Weight decay: added to the gradient of every parameter, except with `adamw` (see `optimizer`)."""
    drops: tuple[int, ...] = ()
    """Epochs at whose start the learning rate is multiplied by `drop_rate`."""
    drop_rate: float = 0.1
    augment: bool = False
    """Random crop and flip."""
    warmup: Annotated[float, Bounds(0)] = 0.0
    """Number of epochs, possibly less than one, over which the learning rate rises linearly from step to step."""
    cosine: bool = False
    """Let the learning rate fall to 0 along a cosine from step to step, instead of drops."""
    clip: Annotated[float, Bounds(0)] = 0.0
    """Largest norm of the gradient, without removed weights; 0 for no limit."""
    accumulate: Annotated[int, Bounds(1), SET] = 1
    """Pieces into which each process cuts its part of a batch (gradient accumulation)."""
    precision: Annotated[Literal["float32", "bf16"], SET] = "float32"
    """bf16: forward pass under autocast; weights stay float32."""
    compile: Annotated[bool, SET] = False
    """Compile the network with `torch.compile`."""
    channels_last: Annotated[bool, SET] = False
    """Store images and convolutions as (N, H, W, C) in memory, which GPUs prefer with bf16."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cosine and self.drops:
            raise UserError("a recipe has drops or a cosine, not both")

    def rate(self, epoch: float) -> float:
        """Return the learning rate at a time in epochs from the start; a step uses the rate at its end."""
        if epoch < self.warmup:
            return self.learning_rate * epoch / self.warmup
        if self.cosine:
            fraction = (epoch - self.warmup) / max(self.epochs - self.warmup, 1e-9)
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
        return self.learning_rate * self.drop_rate ** sum(epoch >= drop for drop in self.drops)

    @property
    def by_step(self) -> bool:
        """True if the learning rate changes from step to step, not only from epoch to epoch."""
        return self.cosine or self.warmup > 0

    def with_epochs(self, epochs: int) -> "Recipe":
        """Return the recipe with another number of epochs and its drops at the same fractions of them."""
        return replace(
            self, epochs=epochs, drops=tuple(max(1, round(drop * epochs / self.epochs)) for drop in self.drops)
        )


_LENET_PAPER = Recipe(100, "adam", 1.2e-3, drops=(60, 120), drop_rate=0.2)  # the second drop never takes effect
_CIFAR_PAPER = Recipe(160, "nesterov", 0.1, weight_decay=1e-4, drops=(60, 120), augment=True)
_CIFAR_STRONG = Recipe(160, "nesterov", 0.1, drops=(80, 120), augment=True)
_CIFAR_SHORT = Recipe(10, "nesterov", 0.05, drops=(6, 9), drop_rate=0.2, augment=True)

_NARROW_SHORT = Recipe(8, "nesterov", 0.1, cosine=True)

# Tables A.3 and C. Momentum is Nesterov's, 0.9, in the authors' code.
PAPER: dict[tuple[str, str], Recipe] = {
    ("lenet-300-100", "mnist"): _LENET_PAPER,
    ("resnet18", "cifar10"): Recipe(160, "nesterov", 0.01, drops=(60, 120), drop_rate=0.2, augment=True),
    ("vgg16", "cifar10"): _CIFAR_PAPER,
    ("vgg19", "cifar100"): _CIFAR_PAPER,
    ("resnet18", "tiny-imagenet"): Recipe(300, "sgd", 0.1, weight_decay=1e-4, drops=(150, 225), augment=True),
}
# For any data set; minutes on two cores (LeNet, ResNet-8, VGG-7) or on a GPU (the others).
SHORT: dict[str, Recipe] = {
    "lenet-300-100": Recipe(30, "adam", 1.2e-3),
    "lenet-500-300": Recipe(30, "adam", 1.2e-3),
    "resnet8": _NARROW_SHORT,
    "vgg7": _NARROW_SHORT,
    "resnet20": _CIFAR_SHORT,
    "resnet18": _CIFAR_SHORT,
    "vgg16": _CIFAR_SHORT,
    "vgg19": _CIFAR_SHORT,
    "vgg19-4096": _CIFAR_SHORT,
}
OWN = Recipe(30, "adam", 1.2e-3)  # for a user's network
# With the usual learning rate of these networks; the paper's dense ResNet-18 is weak.
STRONG: dict[str, Recipe] = dict.fromkeys(("resnet20", "resnet18", "vgg16", "vgg19", "vgg19-4096"), _CIFAR_STRONG)

# Twice as long changes the dense network by less than half a point: see docs/log.md.
CONVERGED: dict[str, Recipe] = {
    "lenet-300-100": Recipe(12, "adam", 1.2e-3, weight_decay=1e-4, cosine=True),
    "resnet8": replace(_NARROW_SHORT, epochs=16),
    "vgg7": replace(_NARROW_SHORT, epochs=16),
}

RecipeName = Literal["short", "paper", "strong", "converged"]


def find_recipe(name: str, network: str, dataset: str) -> Recipe:
    """Return a recipe by name for a network and a data set; it augments only photographs."""
    if name == "paper":
        if (network, dataset) not in PAPER:
            pairs = ", ".join(f"{network} on {dataset}" for network, dataset in PAPER)
            raise UserError(f"the paper has no recipe for {network} on {dataset}; it has: {pairs}")
        return PAPER[network, dataset]
    table = {"short": SHORT, "strong": STRONG, "converged": CONVERGED}.get(name)
    if table is None:
        raise unknown("recipe", name, get_args(RecipeName))
    if name == "short" and ":" in network:
        return OWN
    if network not in table:
        raise UserError(f"there is no {name} recipe for {network}; there is for: {', '.join(table)}")
    photographs = dataset in ("cifar10", "cifar10-16", "cifar100", "tiny-imagenet")
    return replace(table[network], augment=table[network].augment and photographs)
