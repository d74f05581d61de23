"""Tasks by name, and one's own by its file."""

import inspect
from dataclasses import fields
from typing import Any

from autosparse import registry
from autosparse.errors import UserError
from autosparse.tasks.base import Task

TASKS = {"images": "autosparse.tasks.images:Images", "text": "autosparse.tasks.text:Text"}


def find_task(name: str) -> type[Any]:
    """Return the class of a task: `images`, `text`, `package.module:Class` or `path/file.py:Class`.

    Raises:
        UserError: an unknown name, or something that is not a task.
    """
    found: Any = registry.resolve(name, "task", TASKS)
    form = f"{name} is not a task: it must be a frozen dataclass that extends autosparse.Task"
    decorate = "write @dataclass(frozen=True, kw_only=True) above the class"
    if not isinstance(found, type) or not hasattr(found, "__dataclass_fields__"):
        raise UserError(f"{form}; {decorate}")
    task: type[Any] = found
    if hidden := [each.name for each in fields(task) if isinstance(getattr(task, each.name, None), property)]:
        raise UserError(f"the field {hidden[0]} of {name} needs a default value: Task has a property of that name")
    parts = ("model", "dataset", "loss", "metrics", "recipe")
    absent = [part for part in parts if getattr(task, part, None) in (None, getattr(Task, part))]
    if absent or not task.__dataclass_params__.frozen:
        raise UserError(f"{form}; it lacks {', '.join(absent or ['frozen=True'])}")
    if ignored := [
        field
        for kind in task.__mro__
        if hasattr(kind, "__dataclass_fields__") and "__dataclass_fields__" not in vars(kind)
        for field, hint in inspect.get_annotations(kind).items()
        if "ClassVar" not in str(hint)
    ]:
        raise UserError(f"{name} has fields without a decorator of its own, {', '.join(ignored)}; {decorate}")
    if task.better not in ("higher", "lower"):
        raise UserError(f"better of {name} must be higher or lower, got {task.better!r}")
    return task
