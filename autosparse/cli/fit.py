"""Fit AutoS to runs of IRP: `autosparse fit --runs runs/irp/lenet-300-100_mnist5k_snip_n20_s0`."""

from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from autosparse import cluster
from autosparse.cluster import Resources
from autosparse.cluster.records import say
from autosparse.jobs import FitRun


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Fit the network that learns survival from initial weights and gradients.

    One fit to all the runs together, below OUTPUT/autos. Prints its folder, a criterion for `autosparse prune`.

    Examples:
      autosparse fit --runs runs/irp/lenet-300-100_mnist5k_snip_n20_s0 --name mine
      autosparse fit --runs runs/irp/first runs/irp/second --leave-one-out
      autosparse fit --runs runs/irp/resnet18_cifar10_snip_n20_s0 --backbone resnet18 --partition gpu
    """

    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (0,)
    """Seeds of the initial weights, the order and the held-out tenth; several make a grid."""
    job: FitRun
    resources: Resources = field(default_factory=Resources)


def main(a: Arguments) -> None:
    """Fit."""
    fits = [replace(a.job, config=replace(a.job.config, seed=seed)) for seed in a.seeds]
    cluster.launch(fits, a.resources, a.job.output, "fit")
    if not a.resources.dry_run and (weak := sorted({run for job in fits for run in job.no_better_than_a_constant()})):
        say(
            f"the fit is no better than a constant on {', '.join(weak)}: fit for more --epochs or to more --runs; a "
            "network with fewer than 10,000 weights, or few --iterations of autosparse irp, gives too few triples"
        )
    else:
        cluster.say_next(fits, a.resources, *fits[0].prune_command())
