"""The interface of a task, through which IRP, pruning and training reach model and data."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from autosparse.tasks.recipe import Recipe

Split = Literal["train", "validation", "test"]


class Task(Protocol):
    """Model, data, loss, metrics and recipe, in a frozen dataclass that extends this class.

    The fields are options of the command line, whose help is the docstring under a field. They are part of a run's
    identity, unless their metadata is `autosparse.config.NO_IDENTITY`. Methods must depend on the fields alone.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    """Direction in which the first metric is better; required for a metric with a name such as "mse" or "loss"."""

    @property
    def recipe(self) -> "Recipe":
        """Recipe of a training; `--epochs`, `--batch-size` and `--learning-rate` change it."""

    def model(self) -> "nn.Module":
        """Return a fresh model on the CPU, with weights drawn from PyTorch's global generator."""

    def dataset(self, split: Split) -> "Dataset[Any] | None":
        """Return a map-style data set, or None without a validation split.

        Random numbers that its `__getitem__` draws from torch, numpy or random are seeded by seed, epoch and index.
        """

    def loss(self, model: "nn.Module", batch: Any) -> "Tensor":
        """Return the mean loss of a batch, a tensor of one element, on the device of model and batch.

        Call `model(...)` and no other method: in several processes, or compiled, the model is wrapped.
        """

    def metrics(self, model: "nn.Module", batch: Any) -> "dict[str, tuple[Tensor, Tensor]]":
        """Return the sum and count of each metric, tensors or numbers; a metric is their quotient over all batches.

        Epochs are chosen by the first metric.
        """

    def collate(self, samples: list[Any]) -> Any:
        """Combine samples into a batch."""
        from torch.utils.data import default_collate

        return default_collate(samples)

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

    def check(self) -> None:
        """Check the fields before anything is submitted, on a machine that may not have the data.

        Raises:
            UserError: the task cannot run with these fields.
        """

    def files(self) -> "list[Path]":
        """Return the files of code that the task uses besides its own; a run keeps copies of them."""
        return []

    def absent(self) -> str | None:
        """Return one line that names data missing on this machine, or None.

        A machine that submits jobs need not have the data. The methods below are called only where the data exist.
        """
        return None

    def digest(self) -> str | None:
        """Return a digest of the data, or None; a run resumes only with the same digest."""
        return None

    def resolved(self) -> dict[str, Any]:
        """Return values that fields outside the identity resolve to, as YAML values; they are part of the identity."""
        return {}
