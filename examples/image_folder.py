"""Photographs in folders: `python launch/irp.py --task examples/image_folder.py:Photographs --folder PATH`.

PATH holds `train` and `test` and, if you like, `validation`; in each is a folder of images for each class.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import transforms
from torchvision.datasets import ImageFolder

from autosparse import Task
from autosparse.errors import UserError
from autosparse.training import Recipe


@dataclass(frozen=True, kw_only=True)
class Photographs(Task):
    """A network of one's own on images of one's own, read and augmented by `--workers`."""

    folder: Path
    """Where the images are."""
    size: int = 64
    """Height and width that they are brought to."""

    @property
    def recipe(self) -> Recipe:
        return Recipe(30, "nesterov", 0.05, batch_size=32, warmup=1.0, cosine=True)

    def check(self) -> None:
        for split in ("train", "test"):
            if not (self.folder / split).is_dir():
                raise UserError(f"there is no folder {self.folder / split}")

    def model(self) -> nn.Module:
        def block(inputs: int, outputs: int) -> nn.Module:
            convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

        classes = len(ImageFolder(self.folder / "train").classes)
        pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(block(3, 32), block(32, 64), block(64, 128), *pool, nn.Linear(128, classes))

    def dataset(self, split: str) -> ImageFolder | None:
        if not (self.folder / split).is_dir():
            return None
        crop = transforms.RandomResizedCrop(self.size, scale=(0.5, 1.0))
        augment = [crop, transforms.RandomHorizontalFlip()]
        fixed = [transforms.Resize(self.size), transforms.CenterCrop(self.size)]
        how = augment if split == "train" else fixed
        return ImageFolder(self.folder / split, transforms.Compose([*how, transforms.ToTensor()]))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        return nn.functional.cross_entropy(model(inputs), targets)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        inputs, targets = batch
        return {"accuracy": ((model(inputs).argmax(1) == targets).sum(), torch.tensor(len(targets)))}

    @property
    def source(self) -> str:
        return self.folder.name
