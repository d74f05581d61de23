"""What processes of one world tell each other; alone, a process tells itself."""

from typing import TypeVar

from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")


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
