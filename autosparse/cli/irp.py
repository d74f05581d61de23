"""Iterative rewind pruning of a grid of networks: `autosparse irp --partition gpu --seeds 0 1 2 3`.

Without arguments: lenet-300-100 on the embedded MNIST digits, here, in this process.
"""

from dataclasses import dataclass, field, replace
from itertools import product
from typing import Annotated

import tyro

from autosparse import cluster
from autosparse.cluster import Resources
from autosparse.config import IRPCriterion
from autosparse.jobs import IRPRun, TaskArguments


@dataclass(frozen=True, kw_only=True)
class Arguments(TaskArguments):
    """Prune networks iteratively, rewinding them to their initial state, and store (theta, grad, survival).

    One run for each criterion and seed, below OUTPUT/irp. Prints their folders. A complete run is not run
    again; an interrupted run resumes.

    Examples:
      autosparse irp --network lenet-300-100 --dataset mnist5k
      autosparse irp --task mine.py:Mine --iterations 10 --seeds 0 1 --cluster local
      autosparse irp --network resnet18 --dataset cifar10 --partition gpu --time 12:00:00 --dry-run
    """

    criteria: Annotated[tuple[IRPCriterion, ...], tyro.conf.arg(aliases=["--criterion"])] = ("snip",)
    """Criteria that choose in each iteration; several make a grid."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (0,)
    """Seeds of the initial weights and the order of samples; several make a grid."""
    order_seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--order-seed"])] = ()
    """Seeds of the order of samples, augmentation and random criterion, each combined with each of --seeds: runs from
    the same weights. Default: the seed of the weights."""
    job: IRPRun = field(default_factory=IRPRun)
    resources: Resources = field(default_factory=Resources)


def main(a: Arguments) -> None:
    """Run the grid."""
    grid = product(a.criteria, a.seeds, a.order_seeds or (None,))
    configs = [replace(a.job.config, criterion=name, seed=seed, order_seed=order) for name, seed, order in grid]
    jobs = [replace(a.job, config=config) for config in configs]
    cluster.launch(jobs, a.resources, a.job.output, "irp")
    features = ("--features", "theta", *a.job.config.probe_columns) if a.job.config.probe_steps else ()
    folders = [str(job.folder) for job in jobs]
    cluster.say_next(jobs, a.resources, "autosparse", "fit", "--runs", *folders, *features)
