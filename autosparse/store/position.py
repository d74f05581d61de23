"""The position of an iteration over shuffled batches: two integers, to which a resumed fit seeks."""

from typing import Any

from autosparse.errors import UserError


class Resumable:
    """Base of batches whose order is a function of `identity()`, the epoch and the number of the batch."""

    _epoch = _batch = 0  # position of the next batch

    def identity(self) -> dict[str, Any]:
        """Return what defines the order, as JSON values."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the iteration, and what defines the order."""
        return {"epoch": self._epoch, "batch": self._batch, **self.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Seek to a position, saved by any number of processes.

        Raises:
            UserError: the position is of another order (names the difference).
        """
        for key, value in self.identity().items():
            if state.get(key) != value:
                raise UserError(f"the saved position has other {key}: {state.get(key)}, not {value}")
        self._epoch, self._batch = state["epoch"], state["batch"]
