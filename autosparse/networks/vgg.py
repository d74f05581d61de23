"""VGG with batch normalization (Simonyan & Zisserman 2015): torchvision's networks, and a small one."""

from collections import OrderedDict
from collections.abc import Callable

import torchvision
from torch import nn


def vgg7(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build two convolutions of each width 16, 32, 64: 72,496 prunable weights for 3 channels and 10 classes."""
    widths = (shape[0], 16, 32, 64)
    blocks = {f"block{i}": _block(widths[i - 1], widths[i], pooled=i < 3) for i in (1, 2, 3)}
    return nn.Sequential(
        OrderedDict(**blocks, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(64, classes))
    )


def _block(inputs: int, outputs: int, pooled: bool) -> nn.Module:
    """Build two convolutions, followed by 2 x 2 max-pooling if `pooled`."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, kernel_size=3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pooled else []))


def vgg16(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build VGG-16 with one linear classifier: 14,715,584 prunable weights for 3 channels and 10 classes."""
    return _with_small_head(torchvision.models.vgg16_bn, shape, classes)


def vgg19(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build VGG-19 with one linear classifier: 20,070,080 prunable weights for 3 channels and 100 classes."""
    return _with_small_head(torchvision.models.vgg19_bn, shape, classes)


def vgg19_4096(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build VGG-19 with its 4096-wide head: 139,597,504 prunable weights for 10 classes, 143,652,544 for 1,000."""
    return _with_channels(torchvision.models.vgg19_bn(num_classes=classes, init_weights=False), shape[0])


def _with_small_head(make: Callable[..., nn.Module], shape: tuple[int, int, int], classes: int) -> nn.Module:
    model = make(init_weights=False)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Linear(512, classes)
    return _with_channels(model, shape[0])


def _with_channels(model: nn.Module, channels: int) -> nn.Module:
    if channels != 3:
        model.set_submodule("features.0", nn.Conv2d(channels, 64, kernel_size=3, padding=1))
    return model
