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
_HALVINGS = {"vgg7": 2, "vgg16": 5, "vgg19": 5, "vgg19-4096": 5}  # how often pooling halves the images


def check(name: str, shape: tuple[int, int, int] | None = None) -> None:
    """Refuse a network that cannot be built.

    Raises:
        UserError: the name is neither known nor an import path, or the images are too small for the network.
    """
    if name not in NETWORKS:
        registry.resolve(name, "network", NETWORKS)
    halvings = _HALVINGS.get(name, 0)
    if shape and min(shape[1:]) < (smallest := 2**halvings):
        raise UserError(
            f"{name} halves its images {halvings} times and needs {smallest} x {smallest} or larger, "
            f"got {shape[1]} x {shape[2]}"
        )
