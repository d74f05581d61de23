"""What looks on at a training, or changes its mask while it runs."""

from typing import Any

import torch
from torch import nn

from autosparse.pruning import Mask


class Callback:
    """Told of every step of a training; its state is part of the training's, and so of its checkpoints.

    This one does nothing; a subclass overrides what it wants. Every process of a training has its own, and all must
    return the same mask.
    """

    def start(self, model: nn.Module, mask: Mask) -> Mask:
        """The mask that is held from here on; called before the first step, after `load_state_dict` if there is one."""
        return mask

    def gradients(self, step: int, model: nn.Module) -> None:
        """Called when the gradient of a step is in every parameter's `grad`, that of removed weights included.

        Nothing has been clipped, and the optimizer has not stepped.

        Args:
            step: counted from 1, over all epochs.
            model: not the wrapper.
        """

    def stepped(self, step: int, model: nn.Module, mask: Mask, optimizer: torch.optim.Optimizer) -> Mask:
        """The mask that is held from here on; called after the optimizer's step."""
        return mask

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
