"""Residual networks for small images (He et al. 2016): ResNet-18 (paper, appendix A.1), ResNet-20, and a small one."""

from collections import OrderedDict
from itertools import pairwise

import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock


def resnet18(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build torchvision's ResNet-18 with a 3 x 3 stem and no max-pool; its stages have stride 1, 2, 2, 2.

    It has 11,164,352 prunable weights for 3 channels and 10 classes.
    """
    model = torchvision.models.resnet18(num_classes=classes)
    model.conv1 = nn.Conv2d(shape[0], 64, kernel_size=3, stride=1, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def resnet8(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build a ResNet with one block per stage, of width 16, 32, 64 and stride 1, 2, 2.

    It has 77,360 prunable weights for 3 channels and 10 classes.
    """
    return _small_resnet(shape, classes, blocks=1)


def resnet20(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build the ResNet-20 for CIFAR-10 (He et al. 2016, section 4.2), with 1 x 1 projections as shortcuts.

    It has 270,896 prunable weights for 3 channels and 10 classes.
    """
    return _small_resnet(shape, classes, blocks=3)


def _small_resnet(shape: tuple[int, int, int], classes: int, blocks: int) -> nn.Module:
    """Build a ResNet of three stages with as many blocks each, of width 16, 32, 64 and stride 1, 2, 2."""
    widths = [16] * blocks + [32] * blocks + [64] * blocks
    stages = OrderedDict[str, nn.Module]()
    for number, (inputs, outputs) in enumerate(pairwise([16, *widths]), 1):
        block = BasicBlock(inputs, outputs) if inputs == outputs else _downsampling_block(inputs, outputs)
        stages[f"block{number}"] = block
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape[0], 16, kernel_size=3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(16),
            relu=nn.ReLU(),
            **stages,
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(64, classes),
        )
    )


def _downsampling_block(inputs: int, outputs: int) -> nn.Module:
    """Build a block that halves height and width, with a 1 x 1 projection as shortcut."""
    project = nn.Conv2d(inputs, outputs, kernel_size=1, stride=2, bias=False)
    return BasicBlock(inputs, outputs, stride=2, downsample=nn.Sequential(project, nn.BatchNorm2d(outputs)))
