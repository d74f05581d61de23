"""LeNet-300-100 (LeCun et al. 1998; paper, appendix A.1): two hidden layers, 266,200 prunable weights on 28 x 28."""

from collections import OrderedDict

from torch import nn


def lenet_300_100(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build the fully connected network, for images of any size."""
    return _lenet(shape, classes, 300, 100)


def lenet_500_300(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build a wider network, on which a criterion learned from the first is tested."""
    return _lenet(shape, classes, 500, 300)


def _lenet(shape: tuple[int, int, int], classes: int, first: int, second: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(shape[0] * shape[1] * shape[2], first),
            relu1=nn.ReLU(),
            fc2=nn.Linear(first, second),
            relu2=nn.ReLU(),
            fc3=nn.Linear(second, classes),
        )
    )
