"""The networks of AutoS (paper, Table 7 as its code has it)."""

import itertools
from collections.abc import Callable

import torch
from torch import nn

from autosparse.autos.features import Features


def mlp(width: int) -> nn.Module:
    """Return a small fully connected network: width-16-64-1024-1024-64-1 with batch norm and ReLU."""
    return nn.Sequential(*_encoder(width, 16, 64, 1024, 1024, 64), nn.Linear(64, 1), nn.Flatten(0))


def resnet18(width: int) -> nn.Module:
    """Return a linear encoder to 3 x 32 x 32 and a ResNet-18 with a 3 x 3 stem and no max-pool; 1.1 GFLOP per input."""
    import torchvision.models  # The import takes a second, and most fits do not need it.

    backbone = torchvision.models.resnet18(num_classes=1)
    backbone.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    backbone.maxpool = nn.Identity()
    encoder = _encoder(width, 64, 3 * 32 * 32)
    return nn.Sequential(*encoder, nn.Unflatten(1, (3, 32, 32)), backbone, nn.Flatten(0))


def vgg19(width: int) -> nn.Module:
    """Return a linear encoder to 3 x 64 x 64 and a VGG-19 with batch norm and a head 2048-1024-1024-1 with dropout."""
    import torchvision.models

    features = torchvision.models.vgg19_bn(init_weights=False).features
    head: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in ((512 * 2 * 2, 1024), (1024, 1024)):
        head += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True), nn.Dropout()]
    encoder = _encoder(width, 64, 4096, 3 * 64 * 64)
    return nn.Sequential(*encoder, nn.Unflatten(1, (3, 64, 64)), features, *head, nn.Linear(1024, 1), nn.Flatten(0))


def _encoder(*widths: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    return layers


# Functions from the number of inputs to a network from (B, inputs) to (B,).
BACKBONES: dict[str, Callable[[int], nn.Module]] = {"mlp": mlp, "resnet18": resnet18, "vgg19": vgg19}


def make_network(backbone: str, features: Features, seed: int) -> nn.Module:
    """Return a network with PyTorch's initial weights, drawn from the seed; the global generator does not change."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.random.default_generator.manual_seed(seed)
        return BACKBONES[backbone](len(features.names)).float()
