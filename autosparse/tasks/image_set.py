"""Images as a data set of uint8 tensors, normalized and augmented in whole batches."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from autosparse.tasks.arrays import ImageArrays

_PADDING = 4  # pixels around an image before it is cropped


class ImageSet(TensorDataset):
    """Images and labels, normalized when they are read.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        mean, deviation: mean and standard deviation of each channel, in 0..255, float32 (C, 1, 1) each.
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: Tensor, deviation: Tensor) -> None:
        super().__init__(images, labels)
        self.mean, self.deviation = mean, deviation

    def to(self, device: torch.device) -> "ImageSet":
        """Return the same data set in a device's memory."""
        return ImageSet(*(tensor.to(device) for tensor in (*self.tensors, self.mean, self.deviation)))

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        """Return float32 images of mean 0 and standard deviation 1 per channel, and their labels."""
        images, labels = super().__getitem__(index)
        return self._normalize(images), labels

    def augmented(self, index: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return images cropped and flipped by `draws`, float (3, B), and their labels."""
        images, labels = super().__getitem__(index)
        return self._normalize(crop_and_flip(images, draws)), labels

    def _normalize(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.deviation


def image_set(arrays: ImageArrays, split: str, validation: float) -> ImageSet | None:
    """Return a split of a data set on the CPU; None for an empty validation split.

    Every split is normalized by the mean and standard deviation of the training images. `validation` is the fraction of
    the training images held out, the same images for every seed. Arrays are not copied unless they are split.
    """
    x, y = (arrays.x_test, arrays.y_test) if split == "test" else (arrays.x_train, arrays.y_train)
    held_out = round(validation * len(arrays.x_train))
    if split == "validation" and not held_out:
        return None
    if split != "test" and held_out:
        shuffled = np.random.Generator(np.random.PCG64(0)).permutation(len(x))
        indices = np.sort(shuffled[:held_out] if split == "validation" else shuffled[held_out:])
        x, y = x[indices], y[indices]
    mean, deviation = (torch.tensor(moment, dtype=torch.float32) for moment in arrays.moments)
    return ImageSet(torch.from_numpy(x), torch.from_numpy(y), mean, deviation)


def crop_and_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Pad images by 4 black pixels, crop them to their size and flip them horizontally, at random.

    Args:
        images: uint8 (B, C, H, W).
        draws: float (3, B), uniform in [0, 1): vertical offset, horizontal offset, flip.
    """
    height, width = images.shape[2:]
    offsets = (draws[:2] * (2 * _PADDING + 1)).long()
    rows = offsets[0][:, None] + torch.arange(height, device=images.device)
    columns = offsets[1][:, None] + torch.arange(width, device=images.device)
    columns = torch.where(draws[2][:, None] < 0.5, columns, columns.flip(1))
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    # Advanced indices around a slice put the channels last.
    return F.pad(images, [_PADDING] * 4)[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
