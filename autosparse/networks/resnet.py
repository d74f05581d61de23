"""ResNet-18 for small images (paper, appendix A.1): torchvision's, with a 3 x 3 stem and no max-pool."""

import torchvision
from torch import nn


def resnet18(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """11,164,352 prunable weights for 3 channels and 10 classes; stages of stride 1, 2, 2, 2."""
    model = torchvision.models.resnet18(num_classes=classes)
    model.conv1 = nn.Conv2d(shape[0], 64, kernel_size=3, stride=1, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model
