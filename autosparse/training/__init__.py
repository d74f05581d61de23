"""Training with a mask: recipes, the loop, checkpoints, callbacks."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.tasks.recipe import Recipe, find_recipe
    from autosparse.training.checkpoint import Checkpoint
    from autosparse.training.dynamic import Callback
    from autosparse.training.loop import Epoch, evaluate, summarize, train

__all__ = ["Callback", "Checkpoint", "Epoch", "Recipe", "evaluate", "find_recipe", "summarize", "train"]
__getattr__ = lazily(__name__)
