"""Fit AutoS to runs of IRP: `python launch/autos.py --runs runs/irp/lenet-300-100_mnist5k_snip_n20_s0`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from autosparse.autos import Features, FitConfig
from autosparse.cluster import Resources, launch, site_resources
from autosparse.command import run
from autosparse.jobs import FitRun


@dataclass(frozen=True)
class Arguments:
    """Fit the network that learns survival from initial weights and gradients.

    One fit to all the runs together, below OUTPUT/autos. Prints its folder, which launch/prune.py takes as a criterion.
    """

    runs: tuple[str, ...]
    """Runs of launch/irp.py: their folders, or s3:// URLs of their stores; complete, or made by
    the jobs of --after."""
    backbone: str = "mlp"
    """mlp, resnet18 or vgg19 (paper, Table 7); the latter two want a GPU."""
    inputs: str = "both"
    """both, param or grad (paper, Table 2); both+flow for how much flows through a parameter, too."""
    features: str = "scaled"
    """scaled: by their size over the network, compressed; raw: as they are."""
    epochs: int = 10
    """Passes over the triples."""
    max_steps: int = 0
    """Stop earlier, after so many steps; 0 for no such limit."""
    batch_size: int = 1024
    """Triples in a batch, over all processes."""
    learning_rate: float = 0.01
    """Of Adam."""
    anneal: bool = False
    """Let the learning rate fall to 0 along a cosine."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (0,)
    """Of the initial weights, the order and the held-out tenth; several make a grid."""
    label: str = "share"
    """share: of the iterations survived; min-max: over those of the run; log-density: at death, the same at any N;
    rank: the share of all parameters outlived."""
    resolution: int = 512
    """Nodes an axis, at most, of the table that prunes in place of the network; the network is asked at each. For three
    inputs, as many nodes in all as for two."""
    samples: int = 0
    """Triples, drawn evenly from everywhere, to fit to in place of all of them: 65536, say, where they are many more;
    0 to fit to all."""
    rounds: int = 1
    """In how many the criterion prunes; above 1 it is fitted to what each iteration of the runs has left, measured
    anew, for which the runs' data must be there."""
    weights: tuple[float, ...] = ()
    """How often each run comes in an epoch, one number a run; once each if not given."""
    memory: str = "512MB"
    """For mixing triples, over all processes; more mixes better, and the order depends on it."""
    threads: int = 2
    """That read ahead, in each process."""
    leave_one_out: bool = False
    """Also fit without each run in turn, and report how well that predicts it."""
    data_root: Path | None = None
    """Folder of the data sets' .npz files, for --rounds and both+flow; $AUTOSPARSE_DATA, or data, if not given."""
    name: str | None = None
    """Of the folder; made from the arguments if not given."""
    output: Path = Path("runs")
    """Folder of all runs."""
    resources: Resources = field(default_factory=site_resources)


def plan(a: Arguments) -> list[FitRun]:
    """The fits, one a seed."""
    features = Features(a.features, a.inputs)
    fits = [
        FitRun(
            a.output,
            a.runs,
            FitConfig(
                a.backbone,
                features,
                a.epochs,
                a.max_steps,
                a.batch_size,
                a.learning_rate,
                seed,
                a.memory,
                a.weights,
                a.label,
                a.resolution,
                a.samples,
                a.rounds,
                a.anneal,
            ),
            a.leave_one_out,
            a.name,
            a.threads,
            a.data_root,
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
