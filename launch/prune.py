"""Prune at initialization and train: `python launch/prune.py --criteria snip runs/autos/NAME --sparsities 0.9 0.99`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from autosparse.cluster import Resources, launch, site_resources
from autosparse.command import run
from autosparse.jobs import PruneRun
from autosparse.jobs.setting import Setting


@dataclass(frozen=True)
class Arguments:
    """Prune networks before training, by one criterion or several, and train them.

    One run for each criterion, sparsity and seed, below OUTPUT/prune. Prints their folders.
    """

    setting: Setting = field(default_factory=Setting)
    criteria: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--criterion"])] = ("snip",)
    """pretrained (the AutoS of the package), random, random-erk, magnitude, snip, iterative-snip, force, grasp,
    synflow, dataflow, npb, or the folder of a fit of launch/autos.py, there or made by the jobs of --after; several
    make a grid."""
    sparsities: Annotated[tuple[float, ...], tyro.conf.arg(aliases=["--sparsity"])] = (0.9, 0.95, 0.98, 0.99)
    """Shares of the weights to remove, 0 for the dense network; several make a grid."""
    sanity: tuple[str, ...] = ("none",)
    """Sanity checks, beside none: shuffled (the mask within its layers), reinitialized (the weights under it), inverted
    (the scores); several make a grid."""
    rounds: int | None = None
    """Of an AutoS, instead of those that it was fitted for: 1 for one shot, 30 for AutoS in rounds."""
    seeds: tuple[int, ...] = (100, 101)
    """Of initial weights and order of samples; take others than those that labels came from."""
    output: Path = Path("runs")
    """Folder of all runs."""
    resources: Resources = field(default_factory=site_resources)


def plan(a: Arguments) -> list[PruneRun]:
    """The runs of the grid."""
    runs = [
        PruneRun(a.output, a.setting, criterion, sparsity, seed, sanity, a.rounds)
        for criterion in a.criteria
        for sparsity in a.sparsities
        for seed in a.seeds
        for sanity in a.sanity
    ]
    for each in runs:
        each.check()
    return runs


def main(a: Arguments) -> None:
    """Run the grid."""
    launch(plan(a), a.resources, a.output, "prune")


if __name__ == "__main__":
    run(Arguments, main)
