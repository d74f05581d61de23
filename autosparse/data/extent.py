"""How much a data set holds, known also where the data set is not."""

from dataclasses import dataclass
from pathlib import Path

from autosparse.data.sources import load


@dataclass(frozen=True)
class Extent:
    """Training images, the shape (C, H, W) of an image, and the number of classes."""

    images: int
    shape: tuple[int, int, int]
    classes: int


_PUBLISHED = {
    "mnist": Extent(60_000, (1, 28, 28), 10),
    "fashion-mnist": Extent(60_000, (1, 28, 28), 10),
    "cifar10": Extent(50_000, (3, 32, 32), 10),
    "cifar100": Extent(50_000, (3, 32, 32), 100),
    "tiny-imagenet": Extent(100_000, (3, 64, 64), 200),
}


def extent(name: str, root: Path | None = None) -> Extent:
    """The extent of a data set: as it was published, else as it is here.

    Raises:
        UserError: see `sources.load`.
    """
    if name in _PUBLISHED:
        return _PUBLISHED[name]
    images = load(name, root)
    return Extent(len(images.x_train), images.shape, images.classes)
