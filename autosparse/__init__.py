"""AutoSparse: learn from iterative pruning, once, how to prune any network before training."""

from autosparse.api import prune
from autosparse.errors import StoreError, UserError
from autosparse.pruning import Mask

__version__ = "0.1.0"
__all__ = ["Mask", "StoreError", "UserError", "prune"]
