"""Networks by name."""

from autosparse import registry
from autosparse.errors import UserError

# name -> where it is: (image shape (C, H, W), number of classes) -> network, its weights not yet drawn
NETWORKS = {
    "lenet-300-100": "autosparse.networks.lenet:lenet_300_100",
    "lenet-500-300": "autosparse.networks.lenet:lenet_500_300",
    "resnet8": "autosparse.networks.resnet:resnet8",
    "resnet18": "autosparse.networks.resnet:resnet18",
    "vgg7": "autosparse.networks.vgg:vgg7",
    "vgg16": "autosparse.networks.vgg:vgg16",
    "vgg19": "autosparse.networks.vgg:vgg19",
    "vgg19-4096": "autosparse.networks.vgg:vgg19_4096",
}


def check(name: str, shape: tuple[int, int, int] | None = None) -> None:
    """Refuse a network that cannot be built.

    Raises:
        UserError: an unknown name that is no import path either, or images too small for the network.
    """
    if name not in NETWORKS:
        registry.resolve(name, "network", NETWORKS)
    if shape and name.startswith("vgg1") and min(shape[1:]) < 32:
        raise UserError(f"{name} halves its images five times and needs 32 x 32 or larger, got {shape[1]} x {shape[2]}")
