"""Whole experiments by name: `python launch/paper.py demo`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from autosparse.cluster import Resources, site_resources
from autosparse.command import run
from autosparse.errors import unknown
from autosparse.study.plans import PLANS


@dataclass(frozen=True)
class Arguments:
    """Run an experiment from its first job to its report. Prints the folders of its runs and the report's page.

    What is there already is not run again.
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
    page = PLANS[a.name]().run(a.output, a.resources)
    if page:
        print(page)


if __name__ == "__main__":
    run(Arguments, main)
