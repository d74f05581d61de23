"""What is pruned: networks by name, with Kaiming normal weights."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from autosparse.errors import UserError, unknown
from autosparse.networks.lenet import lenet_300_100, lenet_500_300
from autosparse.networks.resnet import resnet18
from autosparse.networks.vgg import vgg16, vgg19, vgg19_4096
from autosparse.seeds import stream

__all__ = ["NETWORKS", "build", "check", "initialize_"]

Fan = Literal["fan_in", "fan_out"]

# name -> (image shape (C, H, W), number of classes) -> network, its weights not yet drawn
NETWORKS: dict[str, Callable[[tuple[int, int, int], int], nn.Module]] = {
    "lenet-300-100": lenet_300_100,
    "lenet-500-300": lenet_500_300,
    "resnet18": resnet18,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "vgg19-4096": vgg19_4096,
}


def build(
    name: str, shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, seed: int = 0, fan: Fan = "fan_in"
) -> nn.Module:
    """Build a network on the CPU; the weights are a function of name, shape, classes, seed and fan alone.

    Args:
        name: one of `NETWORKS`.
        shape: of an image, (channels, height, width).
        classes: outputs.
        seed: of the initial weights; the global generator is left as it was.
        fan: `fan_in` or `fan_out`, the mode of Kaiming normal (He et al. 2015).

    Raises:
        UserError: an unknown name, or images too small for the network.
    """
    check(name, shape)
    if fan not in ("fan_in", "fan_out"):
        raise unknown("fan mode", fan, ("fan_in", "fan_out"))
    with torch.device("meta"):  # without memory: every weight is drawn once, by initialize_
        model = NETWORKS[name](shape, classes)
    model.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(stream("initial weights", seed))
        initialize_(model, fan)
    return model


def check(name: str, shape: tuple[int, int, int]) -> None:
    """Refuse a network that cannot be built.

    Raises:
        UserError: an unknown name, or images too small for the network.
    """
    if name not in NETWORKS:
        raise unknown("network", name, NETWORKS)
    if name.startswith("vgg") and min(shape[1:]) < 32:
        raise UserError(f"{name} halves its images five times and needs 32 x 32 or larger, got {shape[1]} x {shape[2]}")


@torch.no_grad()
def initialize_(model: nn.Module, fan: Fan = "fan_in") -> None:
    """Kaiming normal weights (paper, appendix C), zero biases, identity normalization, in place.

    Raises:
        TypeError: a layer holds parameters or buffers and has no `reset_parameters`.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
            if module.bias is not None:
                module.bias.zero_()
        elif [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            reset: Callable[[], None] | None = getattr(module, "reset_parameters", None)
            if reset is None:
                raise TypeError(f"{type(module).__name__} has no reset_parameters, so it cannot be initialized")
            reset()
