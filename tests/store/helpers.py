"""Random runs, and the stores that they leave."""

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
from tests.world import FORKS


@dataclass(frozen=True)
class Run:
    """The content of a store; the masks start with m_0."""

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

    @property
    def iterations(self) -> int:
        return len(self.masks) - 1

    def probe(self, i: int) -> dict[str, Tensor]:
        """Return a distinct value for each parameter that m_i keeps, by column."""
        kept = self.masks[i].kept.nonzero().squeeze(1)
        return {name: (kept + 1000 * i + number).float() for number, name in enumerate(self.columns)}

    def __len__(self) -> int:
        return len(self.theta)


def random_run(size: int, iterations: int = 3, seed: int = 0, columns: tuple[str, ...] = ()) -> Run:
    """Draw normal theta and grad and uniform survival 0..N; the first parameter survives, so that no mask is empty."""
    generator = torch.Generator().manual_seed(seed)
    theta, grad = (torch.randn(size, generator=generator) for _ in range(2))
    survival = torch.randint(iterations + 1, (size,), generator=generator)
    survival[0] = iterations
    layout = Layout((Layer("a.weight", (size,), 0, 1, 1),))
    return Run(theta, grad, [Mask(layout, survival >= i) for i in range(iterations + 1)], columns)


class StoppedError(Exception):
    """The processes of a group end here."""


def write(path: Path | str, run: Run, shard: int | None = None, size: int = 1, until: int = 1 << 20) -> None:
    """Write or resume a store as a group of `size` processes that ends after `until` commits."""

    def process(group: Group) -> None:
        writer = TripleWriter.open(path, run.layout, run.iterations, {"seed": 0}, group, shard, run.columns)
        while writer.committed < run.iterations:
            advance(writer, run)
        writer.finish()

    with contextlib.suppress(StoppedError):
        run_group(size, process, stop=2 * until + 2)  # Opening and every commit gather twice.


def advance(writer: TripleWriter, run: Run) -> None:
    """Make the next commit of a run."""
    if writer.committed < 0:
        writer.commit_features(run.theta, run.grad)
    elif writer.committed < run.iterations:
        i = writer.committed + 1
        writer.commit_alive(i, run.masks[i], run.probe(i - 1))
    else:
        writer.finish()


def run_group(size: int, process: Callable[[Group], None], stop: int = 1 << 20) -> None:
    """Call a function in one thread per process of a group; all are stopped in the n-th gather."""
    barrier, given = threading.Barrier(size), [None] * size

    def call(rank: int) -> None:
        gathers = itertools.count(1)

        def gather(part: Any) -> list[Any]:
            given[rank] = part
            barrier.wait()
            parts = list(given)
            barrier.wait()
            if next(gathers) == stop:
                raise StoppedError
            return parts

        try:
            process(Group(rank, size, gather))
        except StoppedError:
            raise
        except Exception:
            barrier.abort()  # The others would wait forever.
            raise

    if size == 1:
        return call(0)
    with ThreadPoolExecutor(size) as threads:
        for done in [threads.submit(call, rank) for rank in range(size)]:
            done.result()


def succeeds(target: Callable[..., None], *arguments: object) -> bool:
    """Return True if a function ends without an error in a process of its own, which has none of pytest's threads."""
    process = FORKS.Process(target=target, args=arguments)
    process.start()
    process.join()
    return process.exitcode == 0


def bits(values: NDArray[Any]) -> NDArray[Any]:
    """Return floats as integers: NaN equals itself then, and 0 differs from -0."""
    return values.view(np.uint32) if values.dtype == np.float32 else values


def flip(content: bytes, bit: int) -> bytes:
    """Return the content with one bit flipped."""
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)
