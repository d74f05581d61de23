"""`--task`: the class whose fields are options of a command line, while that is read."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from typing import Annotated, Any

import tyro

from autosparse.command import choices
from autosparse.errors import UserError
from autosparse.options import named
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
        """Make the fields of the task that a command line names its options while it is read.

        Raises:
            UserError: an unknown task, or fields with the names of other options.
        """
        pairs = [tuple(word.split("=", 1)) if "=" in word else (word, after) for word, after in pairwise([*args, ""])]
        name = next((value for key, value in reversed(pairs) if key == "--task"), "images")
        kind = find_task(name)
        token = _CHOSEN.set(kind)
        try:
            count = Counter(_names(cls))
            own = {*_names(kind), *(each.name for each in fields(kind))}
            if taken := sorted(each for each in own if each in _RESERVED or count[each] > 1):
                raise UserError(f"fields of {name} have the names of options: {', '.join(taken)}; rename them")
            yield
        finally:
            _CHOSEN.reset(token)


def _names(kind: type[Any]) -> list[str]:
    return [each.replace("-", "_") for names, _ in named(kind) for each in names]


# Options of some commands, and keys of a run's configuration and results.
_RESERVED = frozenset(
    [
        "autos",
        "better",
        "code",
        "commit",
        "config",
        "cost",
        "criterion_kind",
        "data",
        "density",
        "empty_layers",
        "exclude",
        "final_sparsity",
        "gradient",
        "history",
        "include",
        "iterations",
        "job",
        "kept",
        "kind",
        "labels_from",
        "layer_densities",
        "metric",
        "network_code",
        "options",
        "order_seed",
        "order_seeds",
        "parameters",
        "probe_columns",
        "probe_steps",
        "rate",
        "resources",
        "rewind_epoch",
        "rounds",
        "runs",
        "same_initialization",
        "sanity",
        "schedule",
        "seconds",
        "sparsities",
        "sparsity",
        "steps",
        "task_fields",
        "task_path",
        "test",
        "test_best",
        "test_best_validation",
        "threads",
        "trainings",
        "versions",
    ]
)
