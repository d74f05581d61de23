"""What processes of one world tell each other; alone, a process tells itself."""

from typing import TypeVar

from torch import Tensor
from torch import distributed as world

T = TypeVar("T")


def agreed(scores: Tensor) -> Tensor:
    """The scores of the first process, in place: the last bit may differ where the same sum is made twice."""
    if world.is_initialized():
        world.broadcast(scores, 0)
    return scores


def gathered(part: T) -> list[T]:
    """What each process has, in the order of their ranks; tensors in it must be on the CPU."""
    if not world.is_initialized():
        return [part]
    parts: list[T | None] = [None] * world.get_world_size()
    world.all_gather_object(parts, part)
    return [each for each in parts if each is not None]


def place() -> tuple[int, int]:
    """Rank of this process and the number of processes."""
    return (world.get_rank(), world.get_world_size()) if world.is_initialized() else (0, 1)


def total(*tensors: Tensor) -> None:
    """Add up each tensor over the processes, in place."""
    if world.is_initialized():
        for tensor in tensors:
            world.all_reduce(tensor)
