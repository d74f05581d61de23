"""Communication between the processes of one job; a single process is a group of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes of one job; by default one process alone.

    Attributes:
        rank: number of this process; 0 is the main process.
        size: number of processes.
        gather: called with a value by every process; returns the values of all in the order of their ranks.
    """

    rank: int = 0
    size: int = 1
    gather: Callable[[Any], list[Any]] = lambda part: [part]

    @property
    def is_main(self) -> bool:
        """True in the process that acts for all."""
        return self.rank == 0


def group() -> Group:
    """Return the processes of this job, by `torch.distributed`."""
    return Group(*rank_and_size(), gather)


def broadcast(scores: Tensor) -> Tensor:
    """Replace scores by those of the first process: sums on other processes may differ in the last bit."""
    if dist.is_initialized():
        dist.broadcast(scores, 0)
    return scores


def gather(part: T) -> list[T]:
    """Return the values of all processes in the order of their ranks; their tensors must be on the CPU."""
    if not dist.is_initialized():
        return [part]
    parts: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return [each for each in parts if each is not None]


def rank_and_size() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def all_reduce(*tensors: Tensor) -> None:
    """Sum each tensor over the processes, in place."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.all_reduce(tensor)
