"""Parameters of which each process holds a part (DTensor, as FSDP2 makes them): the part of this process."""

from typing import Any

import torch
from torch import Tensor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element


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
def clear(tensor: Tensor, kept: Tensor) -> None:
    """Set a tensor to zero, in place, where the local part of a mask keeps nothing; a NaN as well."""
    part = local(tensor)
    part.view(_INTEGERS[part.element_size()]).mul_(kept)  # on a CPU ten times as fast as masked_fill_
