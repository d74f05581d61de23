"""The interface of a task: all that iterative pruning, criteria and training need to know of it."""

import inspect
import pickle
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from autosparse import registry
from autosparse.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from autosparse.tasks.recipe import Recipe

Split = Literal["train", "validation", "test"]
TASKS = {"images": "autosparse.tasks.images:Images", "text": "autosparse.tasks.text:Text"}


class Task(Protocol):
    """Model, data, loss, metrics and recipe; a frozen dataclass that extends this.

    Its fields are options of the command line (a docstring under a field is its help) and part of a run's identity,
    unless their metadata is `autosparse.config.NO_IDENTITY`. Fields of nested dataclasses are options, too. The results
    of the methods must depend on the fields alone.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    """Which way the first metric is better. A class whose metric has a name such as "mse" or "loss" says it itself."""

    @property
    def recipe(self) -> "Recipe":
        """Recipe of training, a property or a field; `--epochs`, `--batch-size` and `--learning-rate` change it."""

    def model(self) -> "nn.Module":
        """Return a fresh model on the CPU, its weights drawn from PyTorch's global generator."""

    def dataset(self, split: Split) -> "Dataset[Any] | None":
        """Return a map-style data set, or None if there is no validation split.

        Random numbers drawn in its `__getitem__` from torch, numpy or random are seeded by seed, epoch and index. The
        first batch with such numbers is read twice.
        """

    def loss(self, model: "nn.Module", batch: Any) -> "Tensor":
        """Return the mean loss of a batch, a tensor of one element; model and batch are on the same device.

        Call `model(...)` and none of its methods: in several processes, or compiled, it is wrapped.
        """

    def metrics(self, model: "nn.Module", batch: Any) -> "dict[str, tuple[Tensor, Tensor]]":
        """Return a sum and a count by name, numbers or tensors of one element.

        Their quotient over all batches is the metric. Epochs are chosen by the first metric.
        """

    def collate(self, samples: list[Any]) -> Any:
        """Return samples as a batch."""
        from torch.utils.data import default_collate

        return default_collate(samples)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the task by the name of its class, with the files of the user's that this process has loaded."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.init}
        return registry.rebuild, (registry.FILES, registry.name_of(type(self), {}), pickle.dumps(values))

    @property
    def scoring_batch(self) -> int:
        """Number of samples whose gradient is taken together."""
        return max(1, self.recipe.batch_size // self.recipe.accumulate)

    @property
    def evaluation_batch(self) -> int:
        """Number of samples that are evaluated together."""
        return self.scoring_batch

    @property
    def network(self) -> str:
        """Name of the model in folders and tables."""
        return type(self).__name__.lower()

    @property
    def source(self) -> str:
        """Name of the data in folders and tables."""
        return "own-data"

    @property
    def variant(self) -> str:
        """End of the name of the network in folders, for runs that differ in their initial weights."""
        return ""

    def check(self) -> None:
        """Raise `UserError` for options that cannot run, before anything is submitted, also where data are absent."""

    def files(self) -> "list[Path]":
        """Return the files besides the task's own that a run computes with and keeps a copy of."""
        return []

    def absent(self) -> str | None:
        """Return which data are missing on this machine, in one line, or None.

        A machine that submits need not have the data. The methods below are called only where the data exist.
        """
        return None

    def digest(self) -> str | None:
        """Return a digest of the data, or None; a run does not resume with data of another digest."""
        return None

    def resolved(self) -> dict[str, Any]:
        """Return values of YAML that fields outside the identity resolve to; they are part of the identity."""
        return {}


def find_task(name: str) -> type[Any]:
    """Return the class of a task: `images`, `text`, `package.module:Class` or `path/file.py:Class`."""
    resolved: Any = registry.resolve(name, "task", TASKS)
    form = f"{name} is not a task: it must be a frozen dataclass that extends autosparse.Task"
    decorate = "write @dataclass(frozen=True, kw_only=True) above the class"
    if not isinstance(resolved, type) or not hasattr(resolved, "__dataclass_fields__"):
        raise UserError(f"{form}; {decorate}")
    task: type[Any] = resolved
    if hidden := [field.name for field in fields(task) if isinstance(getattr(task, field.name, None), property)]:
        raise UserError(f"the field {hidden[0]} of {name} needs a default value: Task has a property of that name")
    if taken := [field.name for field in fields(task) if callable(getattr(Task, field.name, None))]:
        raise UserError(f"the field {taken[0]} of {name} has the name of a method of Task; rename it")
    parts = ("model", "dataset", "loss", "metrics", "recipe")
    absent = [part for part in parts if getattr(task, part, None) in (None, getattr(Task, part))]
    if absent or not task.__dataclass_params__.frozen:
        raise UserError(f"{form}; it lacks {', '.join(absent or ['frozen=True'])}")
    hints = inspect.get_annotations(task).values()
    if "__dataclass_fields__" not in vars(task) and any("ClassVar" not in str(hint) for hint in hints):
        raise UserError(f"{name} has fields without a decorator of its own; {decorate}")
    if task.better not in ("higher", "lower"):
        raise UserError(f"better of {name} must be higher or lower, got {task.better!r}")
    return task
