"""The networks that are pruned, by name, with Kaiming normal weights (paper, appendix C) or PyTorch's."""

from typing import TYPE_CHECKING, Literal

from autosparse import registry
from autosparse.errors import UserError
from autosparse.seeds import stream

if TYPE_CHECKING:
    from torch import nn

Fan = Literal["fan_in", "fan_out"]
Init = Literal["kaiming", "torch"]

# Functions of image shape (C, H, W) and number of classes; the weights are drawn by `draw`.
NETWORKS = {
    "lenet-300-100": "autosparse.networks.lenet:lenet_300_100",
    "lenet-500-300": "autosparse.networks.lenet:lenet_500_300",
    "resnet8": "autosparse.networks.resnet:resnet8",
    "resnet20": "autosparse.networks.resnet:resnet20",
    "resnet18": "autosparse.networks.resnet:resnet18",
    "vgg7": "autosparse.networks.vgg:vgg7",
    "vgg16": "autosparse.networks.vgg:vgg16",
    "vgg19": "autosparse.networks.vgg:vgg19",
    "vgg19-4096": "autosparse.networks.vgg:vgg19_4096",
}
_POOLINGS = {"vgg7": 2, "vgg16": 5, "vgg19": 5, "vgg19-4096": 5}  # each halves height and width


def check(name: str, shape: tuple[int, int, int] | None = None) -> None:
    """Raise a UserError if the name cannot be resolved, or images of a shape (C, H, W) are too small."""
    if name not in NETWORKS:
        registry.resolve(name, "network", NETWORKS)
    poolings = _POOLINGS.get(name, 0)
    if shape and min(shape[1:]) < (smallest := 2**poolings):
        raise UserError(
            f"{name} halves its images {poolings} times and needs {smallest} x {smallest} or larger, "
            f"got {shape[1]} x {shape[2]}"
        )


def build(
    name: str, shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, seed: int = 0, fan: Fan = "fan_in"
) -> "nn.Module":
    """Build a network on the CPU with weights that depend on the arguments alone; the global generator is unchanged.

    Args:
        name: name in `NETWORKS` or import path of a network.
        shape: shape of an image, (C, H, W).
        classes: number of outputs.
        seed: seed of the initial weights.
        fan: mode of Kaiming normal (He et al. 2015), `fan_in` or `fan_out`.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(stream("initial weights", seed))
        return draw(name, shape, classes, fan)


def draw(
    name: str, shape: tuple[int, int, int], classes: int, fan: Fan = "fan_in", init: Init = "kaiming"
) -> "nn.Module":
    """Build a network as `build` does, with weights drawn from the global generator.

    With `init="torch"` each layer has PyTorch's default weights and biases.
    """
    import torch

    check(name, shape)
    make = registry.resolve(name, "network", NETWORKS)
    if name not in NETWORKS:  # A user's network draws its own weights.
        network: nn.Module = make(shape, classes)
        return network
    with torch.device("meta"):  # without memory, so that every weight is drawn only once
        model: nn.Module = make(shape, classes)
    model.to_empty(device="cpu")
    _initialize_(model, fan, init)
    return model


def _initialize_(model: "nn.Module", fan: Fan, init: Init) -> None:
    """Set initial weights, and identity normalization, in place; biases are zero with Kaiming normal weights."""
    from torch import nn

    for module in model.modules():
        if init == "kaiming" and isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            module.reset_parameters()  # type: ignore[operator]  # batch normalization, or PyTorch's default
