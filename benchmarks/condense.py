"""Is AutoS the same when it is fitted to condensed triples, and how much sooner is it there?"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from autosparse.autos import AutoS, FitConfig, fit, validate
from autosparse.autos.evaluate import SPARSITIES
from autosparse.autos.fit import number_of_steps
from autosparse.command import run
from autosparse.jobs import IRPRun
from autosparse.jobs.setting import Setting
from autosparse.pruning import Mask, keep_top
from autosparse.store import TripleStore
from benchmarks.common import goal, heading, layout_of, row, scratch, seconds, table


@dataclass(frozen=True)
class Arguments:
    """Fit to all triples of some runs, with two seeds, and to their cells; compare the three on what was held out."""

    runs: tuple[Path, ...] = ()
    """Runs of launch/irp.py; without any, one of lenet-300-100 is made."""
    dataset: str = "mnist5k"
    """Of the run that is made."""
    data_root: Path | None = None
    """Folder of its .npz file."""
    iterations: int = 10
    """Of the run that is made."""
    condense: tuple[int, ...] = (65_536,)
    """Cells, at most; a fit for each."""
    epochs: int = 10
    """Of all fits: passes over the triples, or as many draws as there may be cells."""
    full_epochs: int | None = None
    """Of the fits to all triples, if theirs are to be others."""
    batch_size: int = 1024
    """Of all fits."""
    seed: int = 0
    """Of all fits but the second to all triples, which has the next."""
    folder: Path | None = None
    """Where a folder for the run is made, and deleted again."""


@dataclass(frozen=True)
class Fit:
    """A fit, what it took, and how well it does on what was held out."""

    autos: AutoS
    steps: int
    seconds: float
    metrics: dict[str, Any]


def fitted(name: str, stores: list[TripleStore], how: FitConfig) -> Fit:
    """Fit and validate, the means over the runs; prints both."""
    accelerator, found = Accelerator(), list[AutoS]()
    steps = number_of_steps(stores, how, accelerator)
    taken = seconds(lambda: found.append(fit(stores, how, accelerator)))
    each = [validate(found[0], store, how.seed) for store in stores]
    metrics = {key: sum(of[key] for of in each) / len(each) for key in ("mse", "variance", "spearman")}
    metrics["overlap"] = {s: sum(of["overlap"][s] for of in each) / len(each) for s in map(str, SPARSITIES)}
    row(
        name,
        f"{steps:,}",
        f"{taken:.1f}",
        f"{metrics['mse']:.5f}",
        f"{metrics['mse'] / metrics['variance']:.3f}",
        f"{metrics['spearman']:.4f}",
        *(f"{100 * share:.1f}" for share in metrics["overlap"].values()),
    )
    return Fit(found[0], steps, taken, metrics)


def shared(one: AutoS, other: AutoS, store: TripleStore) -> list[float]:
    """Share of what one keeps of a whole network that the other keeps too, for each sparsity."""
    theta, grad = torch.from_numpy(store.theta()), torch.from_numpy(store.grad())
    full, scores = Mask.full(layout_of(len(store))), [autos.score(theta, grad) for autos in (one, other)]
    found = []
    for sparsity in SPARSITIES:
        k = max(1, round((1 - sparsity) * len(store)))
        first, second = (keep_top(of, k, full).kept for of in scores)
        found.append(int((first & second).sum()) / k)
    return found


def compare(stores: list[TripleStore], a: Arguments) -> None:
    """Fit, and print how alike the fits are."""
    print(f"\n{sum(map(len, stores)):,} triples, runs: {len(stores)}; overlap with survival in %\n")
    sparsities = [f"{100 * sparsity:g}%" for sparsity in SPARSITIES]
    table("fitted to", "steps", "seconds", "held-out MSE", "of variance", "Spearman", *sparsities)
    how = FitConfig(epochs=a.full_epochs or a.epochs, batch_size=a.batch_size, seed=a.seed)
    full = fitted("all triples", stores, how)
    again = fitted("all, another seed", stores, replace(how, seed=a.seed + 1))
    condensed = {
        cells: fitted(f"{cells:,} cells", stores, replace(how, epochs=a.epochs, condense=cells)) for cells in a.condense
    }
    print("\nof what the fit to all triples keeps of the first run's network, the others keep, %\n")
    table("fitted to", *sparsities)
    floor = shared(full.autos, again.autos, stores[0])
    row("all, another seed", *(f"{100 * share:.1f}" for share in floor))
    for cells, each in condensed.items():
        same = shared(full.autos, each.autos, stores[0])
        row(f"{cells:,} cells", *(f"{100 * share:.1f}" for share in same))
        print()
        off = each.metrics["mse"] / full.metrics["mse"] - 1
        rank = each.metrics["spearman"] - full.metrics["spearman"]
        goal(f"{cells:,}: held-out MSE at most 1% higher: {100 * off:+.1f}%", off <= 0.01)
        goal(f"{cells:,}: Spearman at most 0.01 lower: {rank:+.4f}", rank >= -0.01)
        goal(f"{cells:,}: sets as alike as of two seeds", all(x >= y for x, y in zip(same, floor, strict=True)))
        sooner, fewer = full.seconds / each.seconds, full.steps / each.steps
        goal(f"{cells:,}: {fewer:.1f} times fewer steps, 0.8 of that sooner: {sooner:.1f}", sooner >= 0.8 * fewer)


def main(a: Arguments) -> None:
    """Fit and print."""
    heading()
    with scratch(a.folder) as folder:
        runs = a.runs
        if not runs:
            irp = IRPRun(folder, Setting(dataset=a.dataset, data_root=a.data_root, epochs=3), iterations=a.iterations)
            irp.run(Accelerator())
            runs = (irp.folder,)
        compare([TripleStore.open(each) for each in runs], a)


if __name__ == "__main__":
    run(Arguments, main)
