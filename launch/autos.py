"""Fit AutoS to runs of IRP: `python launch/autos.py --runs runs/irp/lenet-300-100_mnist5k_snip_n20_s0`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from autosparse.autos import Features, FitConfig
from autosparse.cluster import Resources, launch
from autosparse.command import run
from autosparse.study.runs import FitRun, complete_store


@dataclass(frozen=True)
class Arguments:
    """Fit the network that learns survival from initial weights and gradients.

    One fit to all the runs together, below OUTPUT/autos. Prints its folder, which launch/prune.py takes as a criterion.
    """

    runs: tuple[Path, ...]
    """Folders of complete runs of launch/irp.py."""
    backbone: str = "mlp"
    """mlp, resnet18 or vgg19 (paper, Table 7); the latter two want a GPU."""
    inputs: str = "both"
    """both, param or grad (paper, Table 2)."""
    features: str = "scaled"
    """scaled: by the root mean square over the network, compressed; raw: as they are."""
    epochs: int = 10
    """Passes over the triples."""
    batch_size: int = 1024
    """Triples in a batch, over all processes."""
    learning_rate: float = 0.01
    """Of Adam."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (0,)
    """Of the initial weights, the order and the held-out tenth; several make a grid."""
    leave_one_out: bool = False
    """Also fit without each run in turn, and report how well that predicts it."""
    name: str | None = None
    """Of the folder; made from the arguments if not given."""
    output: Path = Path("runs")
    """Folder of all runs."""
    resources: Resources = field(default_factory=Resources)


def plan(a: Arguments) -> list[FitRun]:
    """The fits, one a seed."""
    stores = tuple(complete_store(folder) for folder in a.runs)
    features = Features(a.features, a.inputs)
    fits = [
        FitRun(
            a.output,
            stores,
            FitConfig(a.backbone, features, a.epochs, a.batch_size, a.learning_rate, seed),
            a.leave_one_out,
            a.name,
        )
        for seed in a.seeds
    ]
    for each in fits:
        each.check()
    return fits


def main(a: Arguments) -> None:
    """Fit."""
    launch(plan(a), a.resources, a.output, "autos")


if __name__ == "__main__":
    run(Arguments, main)
