"""The order of samples: a pure function of seed, epoch and step, the same for any number of processes."""

import torch
from torch import Tensor

from autosparse.errors import UserError
from autosparse.seeds import stream


def shuffled(samples: int, batch_size: int, seed: int, epoch: int) -> Tensor:
    """The samples of each global batch of an epoch, int64 (steps, batch).

    The last, smaller batch is left out (a new order every epoch), unless it is the only one.
    """
    generator = torch.Generator().manual_seed(stream("order of samples", seed, epoch))
    size, count = min(batch_size, samples), steps(samples, batch_size)
    return torch.randperm(samples, generator=generator)[: count * size].view(count, size)


def steps(samples: int, batch_size: int) -> int:
    """Steps in an epoch."""
    return max(1, samples // batch_size)


def dealt(samples: int, batch_size: int, limit: int | None, rank: int, world_size: int) -> Tensor:
    """Return a process's samples in fixed order, int64 (n,); whole batches are dealt to the processes in turn."""
    stop = samples if limit is None else min(samples, limit * batch_size)
    return torch.cat([torch.arange(0), *torch.arange(stop).split(batch_size)[rank::world_size]])


def check_even(samples: int, batch_size: int, world_size: int, accumulate: int) -> None:
    """Refuse a batch that cannot be cut evenly.

    Raises:
        UserError: over so many processes, in so many pieces each.
    """
    if (size := min(batch_size, samples)) % (world_size * accumulate):
        pieces = f" in {accumulate} pieces each" if accumulate > 1 else ""
        raise UserError(
            f"a batch of {size} cannot be cut evenly over {world_size} processes{pieces}; choose another batch size"
        )
