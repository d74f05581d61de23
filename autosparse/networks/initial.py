"""Networks built with Kaiming normal weights."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from autosparse import registry
from autosparse.errors import unknown
from autosparse.networks.catalog import NETWORKS, check
from autosparse.seeds import stream

Fan = Literal["fan_in", "fan_out"]


def build(
    name: str, shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, seed: int = 0, fan: Fan = "fan_in"
) -> nn.Module:
    """Build a network on the CPU; the weights are a function of name, shape, classes, seed and fan alone.

    Args:
        name: one of `NETWORKS`.
        shape: shape of an image, (channels, height, width).
        classes: number of outputs.
        seed: seed of the initial weights; the global generator is left as it was.
        fan: `fan_in` or `fan_out`, the mode of Kaiming normal (He et al. 2015).

    Raises:
        UserError: an unknown name, or images too small for the network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(stream("initial weights", seed))
        return draw(name, shape, classes, fan)


def draw(name: str, shape: tuple[int, int, int], classes: int, fan: Fan = "fan_in") -> nn.Module:
    """Build a network like `build`, with weights from the global generator; a user's own network draws its own."""
    check(name, shape)
    if fan not in ("fan_in", "fan_out"):
        raise unknown("fan mode", fan, ("fan_in", "fan_out"))
    if name not in NETWORKS:  # A user's own network initializes itself.
        return registry.resolve(name, "network", NETWORKS)(shape, classes)
    with torch.device("meta"):  # without memory: every weight is drawn once, by initialize_
        model: nn.Module = registry.resolve(name, "network", NETWORKS)(shape, classes)
    model.to_empty(device="cpu")
    initialize_(model, fan)
    return model


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
