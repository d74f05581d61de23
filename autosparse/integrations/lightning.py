"""A mask held while Lightning trains: `Trainer(callbacks=[HoldMask(mask)])`."""

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from autosparse.pruning import Hold, Mask


class HoldMask(Callback):
    """Removed weights are zero from the start of training to its end; see `Mask.hold`.

    Args:
        mask: mask to hold.
        model: model of the mask if it is only a part of the LightningModule.
    """

    def __init__(self, mask: Mask, model: nn.Module | None = None) -> None:
        self.mask = mask
        self.model = model
        self._hold: Hold | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hold the mask, after the optimizers are made and a checkpoint, if any, is loaded."""
        self._release()
        self._hold = self.mask.hold(self.model or pl_module, *trainer.optimizers)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Release the mask."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Release the mask."""
        self._release()

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.release()
            self._hold = None
