"""Whole experiments by name: `python launch/paper.py demo`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from autosparse.cluster import Resources, launch_graph, site_resources
from autosparse.command import run
from autosparse.errors import unknown
from autosparse.study.plans import PLANS


@dataclass(frozen=True)
class Arguments:
    """Run an experiment from its first job to its report, OUTPUT/report/index.html. Prints the folders of its runs.

    On Slurm all its jobs are submitted at once, each array with a dependency on those whose output it needs. What is
    there already is not run again; after a failure, the same command goes on from there.
    """

    name: Annotated[str, tyro.conf.Positional]
    """demo"""
    output: Path = Path("runs")
    """Folder of all runs; the report goes to OUTPUT/report."""
    resources: Resources = field(default_factory=site_resources)


def main(a: Arguments) -> None:
    """Run it."""
    if a.name not in PLANS:
        raise unknown("experiment", a.name, PLANS)
    launch_graph(PLANS[a.name]().stages(a.output), a.resources, a.output)


if __name__ == "__main__":
    run(Arguments, main)
