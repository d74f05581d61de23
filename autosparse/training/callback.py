"""Callbacks of the training loop."""

from typing import Any

import torch
from torch import nn

from autosparse.pruning import Mask


class Callback:
    """Called around every step of a training; its state is saved in the checkpoints of the training.

    This class does nothing; subclasses override methods. Every process has its own callback, and all processes must
    return the same mask.
    """

    def start(self, model: nn.Module, mask: Mask) -> Mask:
        """Return the mask to hold from the first step on; called after `load_state_dict` when a training resumes."""
        return mask

    def gradients(self, step: int, model: nn.Module) -> None:
        """Read the gradients in every parameter's `grad`, before clipping; removed weights have one, too.

        Args:
            step: number of the step, from 1, over all epochs.
            model: the model, not its wrapper.
        """

    def stepped(self, step: int, model: nn.Module, mask: Mask, optimizer: torch.optim.Optimizer) -> Mask:
        """Return the mask to hold from here on; called after the optimizer's step."""
        return mask

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
