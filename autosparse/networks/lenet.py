"""LeNet-300-100 (LeCun et al. 1998; paper, appendix A.1): two hidden layers, 266,200 prunable weights on 28 x 28."""

from collections import OrderedDict

from torch import nn


def lenet_300_100(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The fully connected network, for images of any size."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(shape[0] * shape[1] * shape[2], 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, classes),
        )
    )
