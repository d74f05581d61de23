"""Whole experiments by name: `python launch/paper.py demo`, `python launch/paper.py table2 --scale small`."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from autosparse import cluster, study
from autosparse.cluster.progress import say

_AT_ONCE = 8  # Default number of jobs of the demo; each takes half a GB of memory.


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run an experiment from its first job to its report and print the folders of its runs.

    The report is OUTPUT/paper/NAME/index.html, that of the demo OUTPUT/report/index.html.

    On Slurm all its jobs are submitted at once, each array with a dependency on those whose output it needs. Complete
    runs are not run again; after a failure, the same command resumes. --dry-run counts trainings.

    Seeded results are the same on the same kind of processor with the same versions of PyTorch and its libraries. Other
    processors round differently: in the demo, iterative pruning has 91.40 at 95% on an Intel processor and 92.20 on an
    AMD one. The number of cores does not matter to the demo, whose jobs have one each where there is no Slurm.
    """

    name: Annotated[str, tyro.conf.Positional]
    """demo; figure1, figure3 to figure6, table1 to table6, table8, table9, or all of these of the paper; authors, the
    protocol of their code and ours; pretrained and lookahead, which fit the built-in AutoS and compare them with other
    criteria."""
    scale: str | None = None
    """full: the paper's networks, data and recipes, for GPUs; narrow: ResNet-8, VGG-7 and LeNet-300-100, minutes on a
    GPU (not for pretrained, lookahead); small: LeNet-300-100 on MNIST and Fashion-MNIST, on two cores; smoke: a trial
    on digits. Default: full; for demo, a size of its own."""
    output: Path | None = None
    """Folder of all runs. Default: runs, or runs/SCALE for narrow, small and smoke."""
    resources: cluster.Resources = field(default_factory=cluster.Resources)


def main(a: Arguments) -> None:
    """Run it."""
    names, scale, resources = study.find_experiments(a.name), study.find_scale(a.name, a.scale, a.output), a.resources
    graph, demo = study.stages(names, scale), a.name == "demo"
    if resources.dry_run:
        print(*study.describe(graph), sep="\n")
    if demo and resources.cluster == "auto":
        resources = _a_core_each(resources)
    cluster.launch_graph(graph, resources, scale.output)
    (report,) = graph[-1].jobs
    if report.is_complete() and not resources.dry_run:
        if demo:
            say(study.summary(dict.fromkeys(job.folder for stage in graph[:-1] for job in stage.jobs)))
        say(f"the report: {report.folder / 'index.html'}")


def _a_core_each(resources: cluster.Resources) -> cluster.Resources:
    """Give each job a core of this machine, on which such small networks train fastest, unless Slurm runs them."""
    local = resources.resolve("local")
    if local.cluster == "slurm":
        return resources
    local = replace(local, gpus_per_node=local.gpus_per_node or 0, cpus_per_task=local.cpus_per_task or 1)
    return replace(local, runs_at_once=local.runs_at_once or min(_AT_ONCE, local.side_by_side()))
