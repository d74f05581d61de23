"""Tasks: model, data, loss, metrics and recipe together; one's own is a frozen dataclass that extends `Task`."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.tasks.base import TASKS, Task, find_task
    from autosparse.tasks.data import Data
    from autosparse.tasks.images import Images
    from autosparse.tasks.text import Text

__all__ = ["TASKS", "Data", "Images", "Task", "Text", "find_task"]
__getattr__ = lazily(__name__)
