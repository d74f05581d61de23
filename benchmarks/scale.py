"""Does a triple cost the same, in time and memory, however many there are?

For each size a store of random triples is written, shard by shard, and read in a process of its own, that nothing
before it has left memory in: scans, then whole epochs of shuffled batches, from the system's cache as far as that holds
the store. Memory is the largest resident set above that of the process with everything imported and the store open.

With `--fit`, AutoS is then fitted to the largest store and validated, in a process of its own too, whose largest
resident set, the libraries included, is what counts.
"""

import shutil
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from autosparse.autos import StoredSamples, fit, tabulate_held_out, validate
from autosparse.command import run
from autosparse.config import FitConfig
from autosparse.pruning import Mask
from autosparse.sizes import format_size, parse_size
from autosparse.store import Counters, TripleLoader, TripleStore, TripleWriter
from benchmarks.common import goal, heading, layout_of, peak_memory, ratio, row, scratch, table

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Arguments:
    """Read stores of several sizes."""

    sizes: tuple[float, ...] = (10e6, 30e6, 100e6, 300e6, 1e9)
    """Triples in each store; 9 bytes each lie on the disk, two stores at a time."""
    batch_size: int = 65536
    """Triples in a batch."""
    memory: str = "512MB"
    """For mixing, as in a fit: the budget."""
    threads: int = 2
    """Threads that read ahead."""
    limit: float = 1e9
    """Triples of an epoch that are read, at most; with fewer than the epoch has, what is read ahead weighs more."""
    enough: float = 1e8
    """Triples in all that a smaller store is read for, again and again."""
    fit: bool = False
    """Fit AutoS to the largest store as well."""
    fit_steps: int = 200
    """Steps of the fit."""
    fit_batch_size: int = 1024
    """Triples in a step of the fit."""
    folder: Path | None = None
    """Where to write (a folder of its own is made in it, and deleted); where temporary files go, if not given."""


@dataclass(frozen=True)
class Cost:
    """Nanoseconds a triple and bytes of memory, of an epoch and of a scan; and how much of an epoch was read."""

    epoch: float
    scan: float
    epoch_memory: int
    scan_memory: int
    share: float


def alone(action: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a function in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(action, *args, **kwargs).result()


def make(folder: Path, size: int) -> None:
    """A store of random triples and one iteration; a shard of the values, but a whole mask, is in memory at a time."""
    layout = layout_of(size)
    writer = TripleWriter.open(folder, layout, 1, {})

    def normal(seed: int, shard: slice) -> NDArray[np.float32]:
        generator = np.random.Generator(np.random.PCG64([seed, shard.start]))
        return generator.standard_normal(shard.stop - shard.start, np.float32)

    writer.commit_features(partial(normal, 0), partial(normal, 1))
    kept = torch.empty(size, dtype=torch.bool)
    for shard in map(writer.grid.indices, range(writer.grid.shards)):
        kept[shard] = torch.from_numpy(normal(0, shard) > normal(1, shard))
    writer.commit_alive(1, Mask(layout, kept))
    writer.finish()


def measure(folder: Path, a: Arguments) -> Cost:
    """Epochs and a scan of a store, in the process that this is called in."""
    store = TripleStore.open(folder)
    times: dict[str, list[float]] = {"epoch": [], "scan": []}
    memory, share = dict[str, int](), 1.0

    def epoch() -> int:
        nonlocal share
        count, batches = 0, TripleLoader([store], a.batch_size, memory=a.memory, threads=a.threads)
        for triples in batches:
            count += len(triples)
            if count >= a.limit:
                break
        share = count / (len(batches) * a.batch_size)
        return count

    def scan() -> int:
        return sum(len(columns["theta"]) for _, columns in store.scan("theta", "grad", "survival"))

    before = _memory("VmRSS")
    for action in (scan, epoch):
        _forget_peak()
        for _ in range(max(1, int(a.enough) // len(store))):
            start = time.perf_counter()
            count = action()
            times[action.__name__].append((time.perf_counter() - start) / count * 1e9)
        memory[action.__name__] = _memory("VmHWM") - before
    medians = {name: statistics.median(found) for name, found in times.items()}
    return Cost(medians["epoch"], medians["scan"], memory["epoch"], memory["scan"], share)


@dataclass(frozen=True)
class Fitted:
    """What a fit took.

    Seconds to the first step, steps per second from there, the fraction of that time spent waiting for triples, seconds
    of validation and of the lookup table, peak GiB.
    """

    first: float
    rate: float
    waited: float
    validation: float
    peak: float


def fit_to(folder: Path, a: Arguments) -> Fitted:
    """Fit, validate and tabulate."""
    store, steps, waits = TripleStore.open(folder), list[float](), list[float]()

    def progress(_: int, counters: Counters) -> None:
        steps.append(time.perf_counter())
        waits.append(counters.waited)

    config = FitConfig(max_steps=a.fit_steps, batch_size=a.fit_batch_size, memory=a.memory)
    start = time.perf_counter()
    samples = StoredSamples([store], config, a.threads)
    autos = fit(samples, Accelerator(), progress=progress)
    fitted = time.perf_counter()
    validate(autos, samples)
    tabulate_held_out(autos, samples)
    seconds = max(steps[-1] - steps[0], 1e-9)
    rate, waited = (len(steps) - 1) / seconds, (waits[-1] - waits[0]) / seconds
    return Fitted(steps[0] - start, rate, waited, time.perf_counter() - fitted, peak_memory())


def _memory(name: str) -> int:
    """Bytes by a name in /proc/self/status."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{name}:"))


def _forget_peak() -> None:
    """Have the largest resident set start anew from what is resident now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def main(a: Arguments) -> None:
    """Measure and print."""
    heading("zarrs")
    sizes = sorted(map(int, a.sizes))
    costs = list[Cost]()
    print(f"\nepochs in batches of {a.batch_size:,}, {a.memory} for mixing, {a.threads} threads\n")
    table(
        "triples",
        "epoch, ns each",
        "scan, ns each",
        "scan, peak memory",
        "epoch, peak memory",
        "of the budget",
        right=0,
    )
    with scratch(a.folder) as folder:
        for size in sizes:
            alone(make, folder / str(size), size)
            cost = alone(measure, folder / str(size), a)
            costs.append(cost)
            part = "" if cost.share > 0.999 else f" ({cost.share:.0%} of one)"
            row(
                f"{size:,}",
                f"{cost.epoch:.1f}{part}",
                f"{cost.scan:.1f}",
                format_size(cost.scan_memory),
                format_size(cost.epoch_memory),
                f"{cost.epoch_memory / parse_size(a.memory):.2f}",
            )
            if size != sizes[-1]:
                shutil.rmtree(folder / str(size))
        print()
        for name, times in (("an epoch", [c.epoch for c in costs]), ("a scan", [c.scan for c in costs])):
            goal(f"a triple of {name} takes the same time within 20%: {ratio(times):.2f}", ratio(times) <= 1.2)
        worst = max(cost.epoch_memory for cost in costs)
        goal(f"an epoch stays within {a.memory}: {format_size(worst)}", worst <= parse_size(a.memory))
        if a.fit:
            _fit(folder / str(sizes[-1]), sizes[-1], a)


def _fit(folder: Path, size: int, a: Arguments) -> None:
    """Fit, and print what it took."""
    fitted = alone(fit_to, folder, a)
    print(
        f"\na fit of the mlp to {size:,} triples, {a.fit_steps} steps of {a.fit_batch_size:,}, {a.memory} for mixing\n"
    )
    table("", "")
    row("the first step", f"{fitted.first:.1f} s")
    row("steps", f"{fitted.rate:.1f} a second")
    row("of these, waiting for triples", f"{fitted.waited:.1%}")
    row("validation and lookup table, one reading of the store", f"{fitted.validation:.1f} s")
    row("peak memory of the process", f"{fitted.peak:.2f} GiB")
    print()
    goal(f"fit and validation within 2 GiB: {fitted.peak:.2f}", fitted.peak <= 2)
    goal(f"less than a twentieth of the steps' time is waiting: {fitted.waited:.1%}", fitted.waited < 0.05)


if __name__ == "__main__":
    run(Arguments, main)
