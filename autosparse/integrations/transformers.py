"""A mask held while Hugging Face's Trainer trains: `Trainer(..., callbacks=[HoldMask(mask)])`."""

from typing import Any

from transformers import TrainerCallback

from autosparse.pruning import Hold, Mask


class HoldMask(TrainerCallback):
    """Removed weights are zero from the start of training to its end; see `Mask.hold`.

    Args:
        mask: mask to hold.
    """

    def __init__(self, mask: Mask) -> None:
        self.mask = mask
        self._hold: Hold | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hold the mask, after the optimizer is made and a checkpoint, if any, is loaded."""
        self.on_train_end(args, state, control)
        self._hold = self.mask.hold(kwargs["model"], kwargs["optimizer"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Release the mask."""
        if self._hold is not None:
            self._hold.release()
            self._hold = None
