"""Which samples in memory a fit sees when, each as often as it weighs."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autosparse.errors import UserError
from autosparse.seeds import stream
from autosparse.store import Counters


class WeightedSampler:
    """Batches of the numbers of samples, each drawn in proportion to its weight.

    An epoch is as many draws as there are samples. Sampling is stratified: the cumulative weight is cut into one
    stratum per draw of a batch, and each draw is uniform in its stratum. A batch is a function of (seed, epoch, batch);
    each process takes its part. Iterating gives the rest of the current epoch, int64 (B,), then moves to the next.

    Args:
        weights: of the samples, float64 (S,).
        batch_size: draws in a batch, over all processes.
        seed: of the draws.
        rank, world_size: this process takes its part of every batch.
        device: where the batches go.

    Attributes:
        counters: how many samples were drawn, and how fast.

    Raises:
        UserError: a batch cannot be cut over the processes.
    """

    def __init__(
        self,
        weights: Tensor,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch_size % world_size:
            raise UserError(f"a batch of {batch_size} cannot be cut over {world_size} processes")
        self.counters, self._device = Counters(), torch.device(device)
        self._rank, self._world_size = rank, world_size
        self._ends = weights.cumsum(0).cpu().numpy()
        self._of = {"number of samples": len(weights), "batch_size": batch_size, "seed": seed}
        self._epoch, self._batch = 0, 0

    def __len__(self) -> int:
        """Batches in an epoch: as many as are whole, one at least."""
        return max(1, self._of["number of samples"] // self._of["batch_size"])

    def __iter__(self) -> Iterator[Tensor]:
        start = time.perf_counter()
        for batch in range(self._batch, len(self)):
            drawn = self._draw(batch)
            self._batch += 1  # before the yield, as in `TripleLoader`
            self.counters.samples += len(drawn)
            self.counters.seconds += time.perf_counter() - start
            start = time.perf_counter()
            yield drawn.to(self._device)
        self._epoch, self._batch = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands, and of what."""
        return {"epoch": self._epoch, "batch": self._batch, **self._of}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, on any number of processes.

        Raises:
            UserError: it is of other samples, another batch size or seed (names what differs).
        """
        for key, value in self._of.items():
            if state.get(key) != value:
                raise UserError(f"the saved position is of another {key}: {state.get(key)} there, {value} here")
        self._epoch, self._batch = state["epoch"], state["batch"]

    def _draw(self, batch: int) -> Tensor:
        """This process's part of a batch: every so many of the draws, for they are in the order of the samples."""
        size = self._of["batch_size"]
        # the purpose keeps its name, for another would draw other numbers
        shifts = np.random.Generator(np.random.PCG64(stream("cells", self._of["seed"], self._epoch, batch))).random(
            size
        )
        places = (np.arange(size) + shifts) / size * self._ends[-1]
        drawn = np.searchsorted(self._ends, places, side="right").clip(max=len(self._ends) - 1)
        return torch.from_numpy(drawn[self._rank :: self._world_size])
