"""Random numbers as a run would leave them, and the store that a run makes of them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autosparse.pruning import Layer, Layout, Mask
from autosparse.store import TripleWriter
from autosparse.store.schema import LEDGER


@dataclass(frozen=True)
class Drawn:
    """What goes into a store; the masks from m_0 on."""

    theta: Tensor
    grad: Tensor
    masks: list[Mask]

    @cached_property
    def survival(self) -> NDArray[Any]:
        return torch.stack([mask.kept for mask in self.masks[1:]]).sum(0).numpy()

    @property
    def layout(self) -> Layout:
        return self.masks[0].layout

    @property
    def iterations(self) -> int:
        return len(self.masks) - 1

    def __len__(self) -> int:
        return len(self.theta)


def draw(size: int, iterations: int = 3, seed: int = 0) -> Drawn:
    """Normal theta and grad, survival even over 0..N; the first parameter outlives all, so that no mask is empty."""
    generator = torch.Generator().manual_seed(seed)
    theta, grad = (torch.randn(size, generator=generator) for _ in range(2))
    survival = torch.randint(iterations + 1, (size,), generator=generator)
    survival[0] = iterations
    layout = Layout((Layer("a.weight", (size,), 0, 1, 1),))
    return Drawn(theta, grad, [Mask(layout, survival >= i) for i in range(iterations + 1)])


def write(path: Path, run: Drawn, shard: int | None = None, world_size: int = 1, until: int = 1 << 20) -> None:
    """Write a store as `world_size` processes would, going on where it stands; stop after `until` commits."""
    if not (path / LEDGER).exists():
        TripleWriter.create(path, run.layout, run.iterations, {"seed": 0}, shard)
    TripleWriter.clean(path)
    ranks = [TripleWriter.resume(path, rank, world_size) for rank in range(world_size)]
    for _ in range(until):
        done, density = ranks[0].committed, None
        if done < 0:
            parts, density = [rank.write_features(run.theta, run.grad) for rank in ranks], 1.0
        elif done < run.iterations:
            mask = run.masks[done + 1]
            parts, density = [rank.write_alive(done + 1, mask) for rank in ranks], mask.density
        elif not ranks[0].survival_committed:
            parts = [rank.write_survival() for rank in ranks]
        else:
            ranks[0].finish()
            return
        ranks[0].commit({name: entry for part in parts for name, entry in part.items()}, density)
        for rank in ranks[1:]:
            rank.refresh()


def bits(values: NDArray[Any]) -> NDArray[Any]:
    """Floats as integers: NaN equals itself then, and 0 is not -0."""
    return values.view(np.uint32) if values.dtype == np.float32 else values
