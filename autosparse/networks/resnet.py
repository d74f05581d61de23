"""Residual networks for small images (He et al. 2016): ResNet-18 (paper, appendix A.1), and a small one."""

from collections import OrderedDict

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
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape[0], 16, kernel_size=3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(16),
            relu=nn.ReLU(),
            block1=BasicBlock(16, 16),
            block2=_downsampling_block(16, 32),
            block3=_downsampling_block(32, 64),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(64, classes),
        )
    )


def _downsampling_block(inputs: int, outputs: int) -> nn.Module:
    """Build a block that halves height and width, with a 1 x 1 projection as shortcut."""
    project = nn.Conv2d(inputs, outputs, kernel_size=1, stride=2, bias=False)
    return BasicBlock(inputs, outputs, stride=2, downsample=nn.Sequential(project, nn.BatchNorm2d(outputs)))
