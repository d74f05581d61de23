"""Checkpoints, from which an interrupted training resumes and ends with the same bits."""

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
    """A file with the newest state of one training.

    Random numbers are a function of seed, epoch and step, so no generator state is saved.

    Args:
        path: path of the file; one process writes it, atomically.
        tag: name of the training, such as an iteration of IRP; a state with another tag is not loaded.
        interval: seconds between two checkpoints; 0 saves at every step.
        write: whether this process writes the file.
    """

    def __init__(self, path: Path, tag: str, interval: float = 60.0, write: bool = True) -> None:
        self.path, self.tag, self.interval, self._write = path, tag, interval, write
        self._saved_at, self._stop = time.monotonic(), False

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Restore model and optimizer in place, and return the saved position: `epoch`, `step` and further values.

        Return None without a checkpoint of this training.
        """
        device = next(model.parameters()).device
        try:
            if damaged := zipfile.ZipFile(self.path).testzip():  # torch does not verify its own checksums
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
        """Return True if this process must save now; every process calls it after each step.

        All processes save when they were asked to stop.
        """
        self._stop = interruption.agreed()
        return self._stop or (self._write and time.monotonic() - self._saved_at >= self.interval)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, position: dict[str, Any]) -> None:
        """Replace the file with the current state, durably; raise `InterruptedAtStep` if all processes stop here."""
        if self._write and not interruption.lost():
            with replacing(self.path) as temporary:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "position": position}
                torch.save({"tag": self.tag, **recursively_apply(_without_base, state)}, temporary)
            self._saved_at = time.monotonic()
        if self._stop:
            raise interruption.InterruptedAtStep(interruption.received() or "another process was asked to stop")

    def remove(self) -> None:
        """Delete the file."""
        if self._write:
            self.path.unlink(missing_ok=True)


def _without_base(tensor: Tensor) -> Tensor:
    """Copy a view: torch would save the whole memory that it is a part of."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
