"""Parameters that are split over processes (DTensor, as FSDP2 makes them)."""

from typing import Any

import torch
from torch import Tensor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element


def is_sharded(tensor: Tensor) -> bool:
    """Return True if a tensor is a DTensor, without importing that class."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Any) -> Tensor:
    """Return the part of a tensor that this process holds, on the same storage."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return part


def local_part(whole: Tensor, like: Any) -> Tensor:
    """Return the part of a tensor, which every process has whole, that corresponds to `local(like)`, on its device."""
    if not is_sharded(like):
        return whole.to(like.device)
    from torch.distributed.tensor import distribute_tensor  # slow to import, and seldom needed

    # Every process has the same mask, so nothing has to be sent.
    own = whole.to(local(like).device)
    return local(distribute_tensor(own, like.device_mesh, like.placements, src_data_rank=None))


@torch.no_grad()
def clear(tensor: Tensor, kept: Tensor) -> None:
    """Set a tensor to zero in place, also NaNs, where the local part of a mask keeps nothing."""
    part = local(tensor)
    part.view(_INTEGERS[part.element_size()]).mul_(kept)  # on a CPU ten times as fast as masked_fill_
