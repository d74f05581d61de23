"""Parameters of which each process holds a part (DTensor, as FSDP2 makes them): the part of this process."""

from typing import Any

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor; its module is not imported for that."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Any) -> Tensor:
    """What this process holds of a tensor, on the same storage."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return part


def local_part(whole: Tensor, like: Any) -> Tensor:
    """Of a tensor that each process has whole, the part that belongs to `local(like)`, on its device."""
    if not is_sharded(like):
        return whole.to(like.device)
    from torch.distributed.tensor import distribute_tensor  # slow to import, and seldom needed

    # every process has the same mask, so nothing has to be sent
    own = whole.to(local(like).device)
    return local(distribute_tensor(own, like.device_mesh, like.placements, src_data_rank=None))


@torch.no_grad()
def clear(tensor: Tensor, removed: Tensor) -> None:
    """Set a tensor to zero, in place, where the local part of a mask says so."""
    local(tensor).masked_fill_(removed, 0)
