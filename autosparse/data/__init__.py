"""Image data sets by name: uint8 arrays, and data sets of tensors cut from them."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.data.images import ImageSet, image_set
    from autosparse.data.sources import DATASETS, Images, load

__all__ = ["DATASETS", "ImageSet", "Images", "image_set", "load"]
__getattr__ = lazily(__name__)
