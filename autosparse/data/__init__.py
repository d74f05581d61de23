"""What networks learn from: image data sets by name, as uint8 arrays, and batches cut from a device's memory."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.data.base import Data, EpochBatches
    from autosparse.data.batches import Batch, ImageData, TrainingBatches
    from autosparse.data.sources import DATASETS, Images, load

__all__ = ["DATASETS", "Batch", "Data", "EpochBatches", "ImageData", "Images", "TrainingBatches", "load"]
__getattr__ = lazily(__name__)
