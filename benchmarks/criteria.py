"""How long does each criterion take, in how much memory, relative to a forward and backward pass?"""

import dataclasses
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autosparse import networks
from autosparse.command import run
from autosparse.criteria import Scoring, make_criterion, select
from autosparse.criteria.gradient import mean_gradient
from autosparse.criteria.table import CRITERIA
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from autosparse.pruning.schedule import keep_count
from benchmarks.common import goal, heading, peak_memory, row, seconds, table

_PASS = "one forward and backward pass"
_LIMIT = 6.0  # GiB


@dataclass(frozen=True)
class Arguments:
    """Time each criterion from a network to its mask, each in a process of its own, on random images of 32 x 32.

    The pass that all are compared with is the median of three.
    """

    networks: tuple[str, ...] = ("resnet18", "vgg19-4096")
    """The networks."""
    criteria: tuple[str, ...] = CRITERIA
    """The criteria."""
    batches: int = 2
    """Batches to look at."""
    batch_size: int = 64
    """Images in a batch."""
    rounds: int | None = None
    """Rounds of the criteria that work in rounds; as many as each has, if not given."""
    sparsity: float = 0.99
    """Share of the weights to remove."""


def main(a: Arguments) -> None:
    """Time and print."""
    heading("scipy")
    images = f"{a.batches} x {a.batch_size} images, to {100 * a.sparsity:g}%"
    for network in a.networks:
        print(f"\n{network}, {images}\n")
        table("criterion", "rounds", "seconds", "forward-backward passes", "peak memory, GiB")
        base, memory = map(statistics.median, zip(*(_apart(a, network, None) for _ in range(3)), strict=True))
        row(_PASS, "", f"{base:.2f}", "1.0", f"{memory:.2f}")
        peaks = {}
        for name in a.criteria:
            try:
                taken, peaks[name] = _apart(a, network, name)
            except UserError as refused:  # random images in few rounds may leave a criterion nothing to choose by
                row(name, "", str(refused), "", "")
                continue
            rounds = getattr(_criterion(a, name), "rounds", "")
            row(name, f"{rounds}", f"{taken:.2f}", f"{taken / base:.1f}", f"{peaks[name]:.2f}")
        for name in peaks.keys() & {"grasp", "synflow"}:
            goal(f"{name} on {network} within {_LIMIT:g} GiB", peaks[name] < _LIMIT)


def _criterion(a: Arguments, name: str) -> Any:
    criterion: Any = make_criterion(name)
    if a.rounds is None or not hasattr(criterion, "rounds"):
        return criterion
    return dataclasses.replace(criterion, rounds=a.rounds)


def _apart(a: Arguments, network: str, name: str | None) -> tuple[float, float]:
    """Seconds and peak memory of a process that does nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, a, network, name).result()


def _measure(a: Arguments, network: str, name: str | None) -> tuple[float, float]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = networks.build(network, (3, 32, 32), 10).to(device)
    scoring = Scoring([_batch(a, index) for index in range(a.batches)])
    layout = Layout.of(model)
    full = Mask.full(layout, device)
    k = keep_count(1 - a.sparsity, layout.size)

    def act() -> object:
        if name is None:
            return mean_gradient(model, layout, scoring)
        return select(_criterion(a, name), model, full, scoring, k)

    return seconds(act), peak_memory()


def _batch(a: Arguments, index: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(index)
    return torch.randn(a.batch_size, 3, 32, 32, generator=generator), torch.arange(a.batch_size) % 10


if __name__ == "__main__":
    run(Arguments, main)
