"""Communication between the processes of one job; a single process is a group of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes of one job, as one of them sees them; by default there is no other.

    Attributes:
        rank: the number of this process; 0 is the main one.
        size: how many processes there are.
        gather: waits for all of them and returns what each has given, in the order of their ranks.
    """

    rank: int = 0
    size: int = 1
    gather: Callable[[Any], list[Any]] = lambda part: [part]

    @property
    def is_main(self) -> bool:
        """Whether this process acts for all."""
        return self.rank == 0


def group() -> Group:
    """The processes of this job, by `torch.distributed`."""
    return Group(*rank_and_size(), gather)


def broadcast(scores: Tensor) -> Tensor:
    """The scores of the first process, in place: the last bit may differ where the same sum is made twice."""
    if dist.is_initialized():
        dist.broadcast(scores, 0)
    return scores


def gather(part: T) -> list[T]:
    """What each process has, in the order of their ranks; tensors in it must be on the CPU."""
    if not dist.is_initialized():
        return [part]
    parts: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return [each for each in parts if each is not None]


def rank_and_size() -> tuple[int, int]:
    """Rank of this process and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def all_reduce(*tensors: Tensor) -> None:
    """Add up each tensor over the processes, in place."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.all_reduce(tensor)
