"""Random numbers as a run would leave them, and the store that a run makes of them."""

import contextlib
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autosparse.distributed import Group
from autosparse.pruning import Layer, Layout, Mask
from autosparse.store import TripleWriter


@dataclass(frozen=True)
class Drawn:
    """What goes into a store; the masks from m_0 on."""

    theta: Tensor
    grad: Tensor
    masks: list[Mask]
    columns: tuple[str, ...] = ()

    @cached_property
    def survival(self) -> NDArray[Any]:
        return torch.stack([mask.kept for mask in self.masks[1:]]).sum(0).numpy()

    @property
    def layout(self) -> Layout:
        return self.masks[0].layout

    def probe(self, i: int) -> dict[str, Tensor]:
        """What a probe saw of each parameter that m_i keeps, by column."""
        alive = self.masks[i].kept.nonzero().squeeze(1)
        return {name: (alive + 1000 * i + number).float() for number, name in enumerate(self.columns)}

    @property
    def iterations(self) -> int:
        return len(self.masks) - 1

    def __len__(self) -> int:
        return len(self.theta)


def draw(size: int, iterations: int = 3, seed: int = 0, columns: tuple[str, ...] = ()) -> Drawn:
    """Normal theta and grad, survival even over 0..N; the first parameter outlives all, so that no mask is empty."""
    generator = torch.Generator().manual_seed(seed)
    theta, grad = (torch.randn(size, generator=generator) for _ in range(2))
    survival = torch.randint(iterations + 1, (size,), generator=generator)
    survival[0] = iterations
    layout = Layout((Layer("a.weight", (size,), 0, 1, 1),))
    return Drawn(theta, grad, [Mask(layout, survival >= i) for i in range(iterations + 1)], columns)


class StoppedError(Exception):
    """The processes of a group end here."""


def write(path: Path, run: Drawn, shard: int | None = None, size: int = 1, until: int = 1 << 20) -> None:
    """Write a store as a group of some size would, going on where it stands; all are gone after `until` commits."""

    def one(group: Group) -> None:
        writer = TripleWriter.open(path, run.layout, run.iterations, {"seed": 0}, group, shard, run.columns)
        while writer.committed < run.iterations:
            advance(writer, run)
        writer.finish()

    with contextlib.suppress(StoppedError):
        together(size, one, stop=2 * until + 2)  # all wait for each other twice when they open and when they commit


def advance(writer: TripleWriter, run: Drawn) -> None:
    """What comes next in a run."""
    if writer.committed < 0:
        writer.commit_features(run.theta, run.grad)
    elif writer.committed < run.iterations:
        i = writer.committed + 1
        writer.commit_alive(i, run.masks[i], run.probe(i - 1))
    else:
        writer.finish()


def together(size: int, one: Callable[[Group], None], stop: int = 1 << 20) -> None:
    """Call a function in a thread for each process of a group; all are stopped when they wait for the n-th time."""
    barrier, given = threading.Barrier(size), [None] * size

    def process(rank: int) -> None:
        waits = itertools.count(1)

        def gather(part: Any) -> list[Any]:
            given[rank] = part
            barrier.wait()
            everything = list(given)
            barrier.wait()
            if next(waits) == stop:
                raise StoppedError
            return everything

        try:
            one(Group(rank, size, gather))
        except StoppedError:
            raise
        except Exception:
            barrier.abort()  # nobody waits for what will not come
            raise

    if size == 1:
        return process(0)
    with ThreadPoolExecutor(size) as threads:
        for done in [threads.submit(process, rank) for rank in range(size)]:
            done.result()


def bits(values: NDArray[Any]) -> NDArray[Any]:
    """Floats as integers: NaN equals itself then, and 0 is not -0."""
    return values.view(np.uint32) if values.dtype == np.float32 else values
