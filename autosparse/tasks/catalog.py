"""Tasks by name, and one's own by its file."""

from typing import Any

from autosparse import registry
from autosparse.errors import UserError
from autosparse.tasks.base import Task

TASKS = {"images": "autosparse.tasks.images:Images", "text": "autosparse.tasks.text:Text"}


def find_task(name: str) -> type[Any]:
    """The class of a task: `images`, `text`, `package.module:Class` or `path/file.py:Class`.

    Raises:
        UserError: there is none of that name, or it is no task.
    """
    found: Any = registry.resolve(name, "task", TASKS)
    parts = ("model", "dataset", "loss", "metrics", "recipe")
    absent = [part for part in parts if getattr(found, part, None) in (None, getattr(Task, part))]
    own = isinstance(found, type) and "__dataclass_fields__" in vars(found)
    if not own or not found.__dataclass_params__.frozen or absent:
        lacks = f"; it lacks {', '.join(absent)}" if absent else ""
        raise UserError(f"{name} is not a task: it must be a frozen dataclass that extends autosparse.Task{lacks}")
    if found.better not in ("higher", "lower"):
        raise UserError(f"better of {name} must be higher or lower, got {found.better!r}")
    kind: type[Any] = found
    return kind
