"""Whole experiments by name: `python launch/paper.py demo`, `python launch/paper.py table2 --scale small`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from autosparse.cluster import Resources, launch_graph, site_resources
from autosparse.command import run
from autosparse.errors import UserError, unknown
from autosparse.study import cost
from autosparse.study.demo import demo
from autosparse.study.paper import EXPERIMENTS, absent, check, stages
from autosparse.study.plans import PLANS
from autosparse.study.scale import SCALES


@dataclass(frozen=True)
class Arguments:
    """Run an experiment from its first job to its report, OUTPUT/paper/NAME/index.html. Prints the folders of its runs.

    On Slurm all its jobs are submitted at once, each array with a dependency on those whose output it needs. What is
    there already is not run again; after a failure, the same command goes on from there. --dry-run says what it costs.
    """

    name: Annotated[str, tyro.conf.Positional]
    """demo; figure1, figure3 to figure6, table1 to table6, table8, table9, or all of these; pretrained, which makes the
    criterion that comes with the package."""
    scale: str | None = None
    """full: the paper's networks, data and recipes, for GPUs; small: LeNet-300-100 on MNIST and Fashion-MNIST, on two
    cores; smoke: a trial on digits. full if not given; the demo has one size."""
    output: Path | None = None
    """Folder of all runs; runs, or runs/SCALE for other than full and the demo, if not given."""
    resources: Resources = field(default_factory=site_resources)


def main(a: Arguments) -> None:
    """Run it."""
    if a.name not in ("demo", "all", *EXPERIMENTS):
        raise unknown("experiment", a.name, ("demo", *EXPERIMENTS, "all"))
    if a.name == "demo" and a.scale:
        raise UserError("the demo has one size; leave --scale out")
    scale = a.scale or "full"
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    output = a.output or Path("runs", *([scale] if scale != "full" else []))
    names = tuple(PLANS) if a.name == "all" else (a.name,)
    graph = demo().stages(output) if a.name == "demo" else stages(names, scale, output)
    if a.resources.dry_run:
        print(*cost.describe(graph), sep="\n")
        if lacking := absent(graph):  # a cost is wanted before the data is there
            print(*lacking, "the jobs are listed once that is there", sep="\n")
            return
    check(graph)
    launch_graph(graph, a.resources, output)


if __name__ == "__main__":
    run(Arguments, main)
