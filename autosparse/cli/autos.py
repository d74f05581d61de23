"""Fit AutoS to runs of IRP: `python launch/autos.py --runs runs/irp/lenet-300-100_mnist5k_snip_n20_s0`."""

from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from autosparse import cluster
from autosparse.cluster import Resources
from autosparse.jobs import FitRun


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Fit the network that learns survival from initial weights and gradients.

    One fit to all the runs together, below OUTPUT/autos. Prints its folder, a criterion for `autosparse prune`.
    """

    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (0,)
    """Seeds of the initial weights, the order and the held-out tenth; several make a grid."""
    job: FitRun
    resources: Resources = field(default_factory=Resources)


def main(a: Arguments) -> None:
    """Fit."""
    fits = [replace(a.job, config=replace(a.job.config, seed=seed)) for seed in a.seeds]
    cluster.launch(fits, a.resources, a.job.output, "autos")
