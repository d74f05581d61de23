"""What the loop of a training and that of a fit share."""

import contextlib
import math
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from autosparse.errors import UserError


def end_epoch(model: nn.Module, total: Tensor, steps: int, epoch: int, accelerator: Accelerator) -> float:
    """Let all processes go on from an epoch alike, whose batches each has seen a part of through batch norm.

    Args:
        model: not the wrapper; its buffers become those of the main process.
        total: the sum of the losses of this process, float32 (); set to 0.
        steps: of the epoch.
        epoch: its number, from 0.
        accelerator: of this process.

    Returns:
        The mean loss over the main process's part of the batches.

    Raises:
        UserError: the loss is no longer a number (names the epoch and the first layer that is not finite).
    """
    everywhere = accelerator.reduce(total, "sum").item()
    if not math.isfinite(everywhere):
        raise UserError(f"the loss is {everywhere} in epoch {epoch + 1} ({_first_not_finite(model)})")
    mean = broadcast(total).item() / steps
    total.zero_()
    broadcast(list(model.buffers()))
    return mean


@contextlib.contextmanager
def private_generators(device: torch.device) -> Iterator[None]:
    """Leave the global generators as they were found."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _first_not_finite(model: nn.Module) -> str:
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            return f"first layer that is not finite: {name}"
    return "all weights are finite: the inputs or the learning rate are at fault"
