"""The state of a training that was interrupted: enough to end with the same bits as one that was not."""

import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import recursively_apply
from torch import Tensor, nn

from autosparse.cluster import interruption
from autosparse.errors import UserError
from autosparse.files import replacing


class Checkpoint:
    """One file that holds the newest state of one training, tagged with which training it is.

    Randomness is a function of seed, epoch and step, so there is no generator state to keep.

    Args:
        path: the file; written atomically, by one process.
        tag: which training (an iteration of IRP, say); the state of another is not loaded.
        interval: seconds between two savings; 0 saves at every step.
        write: whether this process is the one that writes.
    """

    def __init__(self, path: Path, tag: str, interval: float = 60.0, write: bool = True) -> None:
        self.path, self.tag, self.interval, self._write = path, tag, interval, write
        self._saved_at, self._stop = time.monotonic(), False

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Put the saved state into model and optimizer.

        Returns:
            The position (`epoch`, `step` and what else was saved with it), or None if there is nothing to go on from.

        Raises:
            UserError: the file is damaged.
        """
        device = next(model.parameters()).device
        try:
            if damaged := zipfile.ZipFile(self.path).testzip():  # torch passes over the checksums that it writes
                raise ValueError(f"checksum of {damaged}")
            state = torch.load(self.path, map_location=device, weights_only=True)
            if state["tag"] != self.tag:
                return None
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        except FileNotFoundError:
            return None
        except Exception as error:  # torch raises many types for a damaged file
            raise UserError(f"checkpoint {self.path} cannot be read; delete it and run the same again") from error
        return state["position"]

    def due(self) -> bool:
        """Whether this process should save now; asked by every process after each step.

        All of them should where they were asked to stop.
        """
        self._stop = interruption.agreed()
        return self._stop or (self._write and time.monotonic() - self._saved_at >= self.interval)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, position: dict[str, Any]) -> None:
        """Write the state, durably, in place of the one before.

        Raises:
            InterruptedAtStep: all processes were asked to stop here.
        """
        if self._write and not interruption.lost():
            with replacing(self.path) as temporary:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "position": position}
                torch.save({"tag": self.tag, **recursively_apply(_alone, state)}, temporary)
            self._saved_at = time.monotonic()
        if self._stop:
            raise interruption.InterruptedAtStep(interruption.received() or "another process was asked to stop")

    def remove(self) -> None:
        """Delete the file, once nothing will go on from it."""
        if self._write:
            self.path.unlink(missing_ok=True)


def _alone(tensor: Tensor) -> Tensor:
    """A view of a larger memory as a tensor of its own: torch would save all of that."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
