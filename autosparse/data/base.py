"""What training, criteria and IRP want of data on one process."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


class EpochBatches(Protocol):
    """Shuffled batches: a pure function of (seed, epoch, step), cut over the processes."""

    def __len__(self) -> int:
        """Steps in an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """This process's part of the batches from step `start` on; of each step as many as are accumulated."""


class Data(Protocol):
    """The data of one process, and what is made of them.

    Attributes:
        rank, world_size: this process.
    """

    rank: int
    world_size: int

    @property
    def scoring_batch(self) -> int:
        """Samples whose gradient is taken together."""

    @property
    def better(self) -> Literal["higher", "lower"]:
        """Which way the first metric is better."""

    def __len__(self) -> int:
        """Number of training samples."""

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation split."""

    def training(self, batch_size: int, seed: int = 0, augment: bool = False, accumulate: int = 1) -> EpochBatches:
        """Shuffled batches of the training samples.

        Raises:
            UserError: a batch that cannot be cut evenly over the processes.
        """

    def scoring(self, batch_size: int | None = None, limit: int | None = None) -> Iterable[Any]:
        """The training samples in fixed order, at most `limit` batches; whole batches are dealt to the processes."""

    def evaluation(self, split: str) -> Iterable[Any]:
        """The samples of `test` or `validation` in fixed order, dealt to the processes in turn."""

    def loss(self, model: "nn.Module", batch: Any) -> "Tensor":
        """The mean loss of a batch."""

    def metrics(self, model: "nn.Module", batch: Any) -> "dict[str, tuple[Tensor, Tensor]]":
        """Sums and counts by name."""
