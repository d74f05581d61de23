"""What a task is: all that IRP, pruning and training need to know of what is learned."""

import pickle
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from autosparse import registry

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from autosparse.tasks.recipe import Recipe

Split = Literal["train", "validation", "test"]


class Task(Protocol):
    """Model, data, loss, metrics and recipe; a frozen dataclass that extends this.

    Its fields are options of the command line (a docstring under a field is its help) and part of a run's identity,
    unless their metadata is `autosparse.config.NO_IDENTITY`. Nothing but the fields may decide what its methods give.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    """Which way the first metric is better. A class whose metric has a name such as "mse" or "loss" says it itself."""

    @property
    def recipe(self) -> "Recipe":
        """How it is trained; `--epochs`, `--batch-size` and `--learning-rate` change it."""

    def model(self) -> "nn.Module":
        """A fresh model on the CPU, its weights drawn from PyTorch's global generator."""

    def dataset(self, split: Split) -> "Dataset[Any] | None":
        """A map-style data set; None for a validation split that there is not.

        Random numbers drawn in its `__getitem__` from torch, numpy or random are seeded by seed, epoch and index.
        """

    def loss(self, model: "nn.Module", batch: Any) -> "Tensor":
        """The mean loss of a batch, a tensor of one element; both are on the same device.

        Call `model(...)` and nothing else of it: in several processes, or compiled, it is wrapped.
        """

    def metrics(self, model: "nn.Module", batch: Any) -> "dict[str, tuple[Tensor, Tensor]]":
        """Sums and counts, tensors or numbers, by metric; a metric is their quotient over all batches.

        Epochs are chosen by the first metric.
        """

    def collate(self, samples: list[Any]) -> Any:
        """Samples to a batch."""
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
        """What folders and tables call the model."""
        return type(self).__name__.lower()

    @property
    def source(self) -> str:
        """What folders and tables call the data."""
        return "own-data"

    def check(self) -> None:
        """Refuse what cannot run, before anything is submitted, also where the data are absent.

        Raises:
            UserError: what is wrong.
        """

    def files(self) -> "list[Path]":
        """Files, beside that of the task itself, that a run computes with and keeps a copy of."""
        return []

    def absent(self) -> str | None:
        """Which data are not on this machine, in one line; the methods below are called where they are.

        A machine that submits need not have them.
        """
        return None

    def digest(self) -> str | None:
        """A digest of the data, if there is one; a run does not go on with others."""
        return None

    def resolved(self) -> dict[str, Any]:
        """What fields outside the identity resolve to, as values of YAML: part of the identity."""
        return {}
