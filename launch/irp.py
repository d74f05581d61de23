"""Iterative rewind pruning of a grid of networks: `python launch/irp.py --partition gpu --seeds 0 1 2 3`.

Without arguments: lenet-300-100 on the embedded MNIST digits, here, in this process.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from autosparse.cluster import Resources, launch, site_resources
from autosparse.command import run
from autosparse.jobs import IRPRun
from autosparse.jobs.setting import Setting


@dataclass(frozen=True)
class Arguments:
    """Prune networks iteratively, rewinding them to their initial state, and store (theta, grad, survival).

    One run for each criterion and seed, below OUTPUT/irp. Prints their folders. A run that is complete is not run
    again; one that was interrupted goes on.
    """

    setting: Setting = field(default_factory=Setting)
    criteria: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--criterion"])] = ("snip",)
    """What decides in each iteration: random, magnitude, snip or grasp; several make a grid."""
    iterations: int = 20
    """N, how often the network is pruned."""
    schedule: str = "geometric"
    """How density falls: geometric, linear or constant."""
    final_sparsity: float = 0.99
    """Share removed after the last iteration (geometric and linear)."""
    rate: float = 0.85
    """Share of the survivors kept in each iteration (constant)."""
    rewind_epoch: int = 0
    """Rewind to the state after so many epochs of the first training instead of the initial one."""
    batch_norm: Literal["batch", "running"] = "batch"
    """Batch norm in the stored gradient: on each batch, or by its fresh running statistics (the paper's code)."""
    seeds: tuple[int, ...] = (0,)
    """Of initial weights and order of samples; several make a grid."""
    order_seeds: tuple[int, ...] = ()
    """Of order, augmentation and random criterion instead, each with each of --seeds: runs from the same weights."""
    output: Path = Path("runs")
    """Folder of all runs."""
    resources: Resources = field(default_factory=site_resources)


def plan(a: Arguments) -> list[IRPRun]:
    """The runs of the grid."""
    runs = [
        IRPRun(
            a.output,
            a.setting,
            criterion,
            a.iterations,
            a.schedule,
            a.final_sparsity,
            a.rate,
            seed,
            order_seed,
            a.rewind_epoch,
            a.batch_norm,
        )
        for criterion in a.criteria
        for seed in a.seeds
        for order_seed in (a.order_seeds or (None,))
    ]
    for each in runs:
        each.check()
    return runs


def main(a: Arguments) -> None:
    """Run the grid."""
    launch(plan(a), a.resources, a.output, "irp")


if __name__ == "__main__":
    run(Arguments, main)
