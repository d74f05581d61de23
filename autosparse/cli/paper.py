"""Whole experiments by name: `autosparse paper table2 --scale small`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from autosparse import cluster, study
from autosparse.cluster.records import say
from autosparse.command import choices


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run an experiment from its first job to its report and print the folders of its runs.

    The report is OUTPUT/paper/NAME/index.html.

    On Slurm all its jobs are submitted at once, each array with a dependency on those whose output it needs. Complete
    runs are not run again; after a failure, the same command resumes. --dry-run counts training runs.

    Seeded results are the same on the same kind of processor with the same versions of PyTorch and its libraries. Other
    processors round differently.

    Examples:
      autosparse paper table2 --scale smoke
      autosparse paper figure3 --scale small --cluster local
      autosparse paper all --partition gpu --dry-run
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """figure1, figure3, figure4, figure5, figure6, table1, table2, table3, table4, table5, table6, table8, table9; all,
    all of these; authors, the protocol of their code and ours; pretrained and lookahead, which make the built-in
    criteria."""
    scale: Annotated[str | None, choices(("full", "narrow", "small", "smoke"))] = None
    """full: the paper's networks, data and recipes, for GPUs; narrow: ResNet-8, VGG-7 and LeNet-300-100, minutes on a
    GPU (not for pretrained, lookahead); small: LeNet-300-100 on MNIST and Fashion-MNIST, on two cores; smoke: a trial
    on digits. Default: full."""
    output: Path | None = None
    """Folder of all runs. Default: runs, or runs/SCALE for narrow, small and smoke."""
    resources: cluster.Resources = field(default_factory=cluster.Resources)


def main(a: Arguments) -> None:
    """Run it."""
    names, scale = study.find_experiments(a.name), study.find_scale(a.name, a.scale, a.output)
    graph = study.stages(names, scale)
    if a.resources.dry_run:
        print(*study.describe(graph), sep="\n")
    cluster.launch_graph(graph, a.resources, scale.output)
    (report,) = graph[-1].jobs
    if report.is_complete() and not a.resources.dry_run:
        say(f"the report: {report.folder / 'index.html'}")
        say("next: open it in a browser")
