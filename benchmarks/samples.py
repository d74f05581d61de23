"""Is AutoS as good when it is fitted to some of the triples, in as many steps?"""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from autosparse.autos import StoredSamples, fit, validate
from autosparse.command import run
from autosparse.config import FitConfig, IRPConfig
from autosparse.jobs import IRPRun
from autosparse.jobs.base import TrainingOptions
from autosparse.store import TripleStore
from autosparse.tasks import Images
from benchmarks.common import goal, heading, row, scratch, table

OVERLAPS = ("0.95", "0.99")


@dataclass(frozen=True)
class Arguments:
    """Fit to all triples of a run and to samples of them, each with several seeds; compare on what was held out."""

    triples: Path | None = None
    """A run of launch/irp.py; without one, lenet-300-100 on digits is pruned."""
    samples: tuple[int, ...] = (65_536, 4_096)
    """Sizes of the samples; fits for each."""
    steps: int = 640
    """Steps of every fit."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the fits."""
    folder: Path | None = None
    """Where a folder for the run is made, and deleted again."""


def fitted(store: TripleStore, how: FitConfig) -> dict[str, Any]:
    """The held-out metrics of a fit."""
    samples = StoredSamples([store], how)
    return validate(fit(samples, Accelerator()), samples)


def compare(store: TripleStore, a: Arguments) -> None:
    """Fit and print."""
    how = FitConfig(epochs=a.steps, max_steps=a.steps)
    print(f"\n{len(store):,} triples, {a.steps} steps; overlap with survival in %; mean ± deviation over seeds\n")
    table("fitted to", "held-out MSE", "Spearman", *(f"{100 * float(share):g}%" for share in OVERLAPS))
    found = dict[int, tuple[float, float]]()
    for size in (0, *a.samples):
        each = [fitted(store, replace(how, samples=size, seed=seed)) for seed in a.seeds]
        found[size] = _mean_and_deviation([of["mse"] for of in each])
        row(
            f"{size:,} triples" if size else "all triples",
            "{:.5f} ± {:.5f}".format(*found[size]),
            "{:.4f} ± {:.4f}".format(*_mean_and_deviation([of["spearman"] for of in each])),
            *(
                "{:.1f} ± {:.1f}".format(*_mean_and_deviation([100 * of["overlap"][s] for of in each]))
                for s in OVERLAPS
            ),
        )
    print()
    for size in a.samples:
        worse, deviation = found[size][0] - found[0][0], max(found[size][1], found[0][1])
        goal(f"{size:,}: MSE higher by less than the deviation, {deviation:.5f}: {worse:+.5f}", worse < deviation)


def _mean_and_deviation(values: list[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def main(a: Arguments) -> None:
    """Fit and print."""
    heading()
    with scratch(a.folder) as folder:
        setting, config = TrainingOptions(task=Images(source="digits"), epochs=1), IRPConfig(iterations=2)
        made = IRPRun(setting=setting, config=config, output=folder)
        if not a.triples:
            made.run(Accelerator())
        compare(TripleStore.open(a.triples or made.folder), a)


if __name__ == "__main__":
    run(Arguments, main)
