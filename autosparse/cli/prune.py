"""Prune at initialization and train: `autosparse prune --criteria snip runs/autos/NAME --sparsities 0.9 0.99`."""

from dataclasses import dataclass, field, replace
from itertools import product
from typing import Annotated

import tyro

from autosparse import cluster
from autosparse.cluster import Resources
from autosparse.command import choices
from autosparse.config import Sanity
from autosparse.criteria.table import TABLE
from autosparse.jobs import PruneRun, TaskArguments

_CRITERIA = tuple(row.name for row in TABLE)


@dataclass(frozen=True, kw_only=True)
class Arguments(TaskArguments):
    """Prune networks before training, by one criterion or several, and train them.

    One run for each criterion, sparsity and seed, below OUTPUT/prune; at sparsity 0 one for each seed. Prints their
    folders.

    Examples:
      autosparse prune --criteria pretrained snip --sparsities 0.95
      autosparse prune --criteria runs/autos/mine random --network lenet-300-100 --dataset mnist5k --seeds 100
      autosparse prune --task mine.py:Mine --criteria snip mine.py:score --sparsities 0.9 --cluster local
    """

    criteria: Annotated[tuple[str, ...], choices(_CRITERIA, alias="--criterion")] = ("snip",)
    """Criteria by name (pretrained: the AutoS of the package, lookahead: the one that trains ahead, as short-irp and
    snip-probe do; gmp and rigl choose during the training), folders of `autosparse fit`, or your own as
    FILE.py:FUNCTION."""
    sparsities: Annotated[tuple[float, ...], tyro.conf.arg(aliases=["--sparsity"])] = (0.9, 0.95, 0.98, 0.99)
    """Fractions of the weights to remove, 0 for the dense network; several make a grid."""
    sanity: tuple[Sanity, ...] = ("none",)
    """Sanity checks, besides none: mask shuffled within its layers, weights reinitialized under it, scores inverted."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (100, 101)
    """Seeds of the initial weights and the order of samples; not those of the runs that AutoS was fitted to."""
    job: PruneRun = field(default_factory=PruneRun)
    resources: Resources = field(default_factory=Resources)


def main(a: Arguments) -> None:
    """Run the grid."""
    dense = [replace(a.job.config, sparsity=0.0, seed=seed) for seed in a.seeds if 0 in a.sparsities]
    grid = product(a.criteria, filter(None, a.sparsities), a.seeds, a.sanity)
    configs = dense + [
        replace(a.job.config, criterion=name, sparsity=sparsity, seed=seed, sanity=sanity)
        for name, sparsity, seed, sanity in grid
    ]
    jobs = [replace(a.job, config=config) for config in configs]
    cluster.launch(jobs, a.resources, a.job.output, "prune")
    cluster.say_next(jobs, a.resources, "autosparse", "report", str(a.job.output), "--output", "report")
