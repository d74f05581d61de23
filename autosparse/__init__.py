"""AutoSparse: learn from iterative pruning, once, how to prune any network before training."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.api import prune
    from autosparse.errors import StoreError, UserError
    from autosparse.pruning import Mask
    from autosparse.tasks import Task

__version__ = "0.1.0"
__all__ = ["Mask", "StoreError", "Task", "UserError", "prune"]
__getattr__ = lazily(__name__)
