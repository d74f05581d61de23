"""`--task`: the class whose fields are options of a command line, while that is read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from typing import Annotated, Any

import tyro

from autosparse.command import choices
from autosparse.errors import UserError
from autosparse.tasks.base import Task
from autosparse.tasks.catalog import TASKS, find_task
from autosparse.tasks.images import Images

_CHOSEN: ContextVar[type[Any]] = ContextVar("task", default=Images)


def chosen_task() -> type[Any]:
    """The class."""
    return _CHOSEN.get()


def default_task() -> Task:
    """The task whose fields have their defaults; those without one are still to be given."""
    kind = _CHOSEN.get()
    required = [each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING]
    if not required:
        return kind()
    task: Task = object.__new__(kind)
    for each in fields(kind):
        given = each.default_factory() if each.default_factory is not MISSING else each.default
        vars(task)[each.name] = tyro.MISSING if each.name in required else given
    return task


@dataclass(frozen=True, kw_only=True)
class Tasked:
    """The arguments of a command that works on a task."""

    task: Annotated[str, choices([*TASKS, "FILE.py:CLASS"])] = "images"
    """The task to learn; `--task NAME --help` lists the options of another than images."""

    @classmethod
    @contextmanager
    def reading(cls, args: Sequence[str]) -> Iterator[None]:
        """While this command line is read, the task that it names is the one whose fields are options.

        Raises:
            UserError: there is none of that name, or one of its fields has the name of another option.
        """
        pairs = [tuple(word.split("=", 1)) if "=" in word else (word, after) for word, after in pairwise([*args, ""])]
        name = next((value for key, value in reversed(pairs) if key == "--task"), "images")
        kind = find_task(name)
        if taken := {each.name for each in fields(kind)} & _RESERVED:
            raise UserError(f"the field {min(taken)} of {name} has the name of an option; rename it")
        token = _CHOSEN.set(kind)
        try:
            yield
        finally:
            _CHOSEN.reset(token)


# what jobs and launch scripts call their own, or write into a run's configuration
_RESERVED = frozenset(
    [
        "accumulate",
        "autos",
        "batch_norm",
        "batch_size",
        "better",
        "channels_last",
        "code",
        "commit",
        "compile",
        "config",
        "criteria",
        "cost",
        "criterion",
        "criterion_kind",
        "data",
        "density",
        "empty_layers",
        "epochs",
        "exclude",
        "final_sparsity",
        "grad_batches",
        "gradient",
        "history",
        "include",
        "iterations",
        "job",
        "kept",
        "kind",
        "labels_from",
        "layer_densities",
        "learning_rate",
        "metric",
        "options",
        "network_code",
        "order_seed",
        "order_seeds",
        "output",
        "parameters",
        "precision",
        "rate",
        "resources",
        "rewind_epoch",
        "rounds",
        "runs",
        "same_initialization",
        "sanity",
        "schedule",
        "seconds",
        "seed",
        "seeds",
        "sparsities",
        "sparsity",
        "task",
        "task_fields",
        "task_path",
        "test",
        "test_best",
        "test_best_validation",
        "threads",
        "track",
        "trainings",
        "versions",
        "workers",
    ]
)
