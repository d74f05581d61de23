"""The whole pipeline in minutes: `autosparse demo`, which `make demo` runs."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from autosparse import cluster, study
from autosparse.cluster.records import say
from autosparse.command import choices

_AT_ONCE = 8  # Default number of jobs; each takes half a GB of memory.


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Prune a small network iteratively, fit AutoS, prune by it and by other criteria, and write a report.

    It takes under four minutes on two idle cores. The report is OUTPUT/report/index.html. Complete runs are not run
    again; after a failure, the same command resumes. --dry-run counts training runs.

    Seeded results are the same on the same kind of processor with the same versions of PyTorch and its libraries. Other
    processors round differently: iterative pruning has 91.40 at 95% on an Intel processor and 92.20 on an AMD one. The
    number of cores does not matter, as each job has one core where there is no Slurm.

    Examples:
      autosparse demo
      autosparse demo --scale smoke --output trial
      autosparse demo --dry-run
    """

    scale: Annotated[str | None, choices(("full", "small", "narrow", "smoke"))] = None
    """Networks, data and recipes, as of `autosparse paper`; smoke: a trial on digits. Default: a size of its own."""
    output: Path | None = None
    """Folder of all runs. Default: runs, or runs/SCALE for narrow, small and smoke."""
    resources: cluster.Resources = field(default_factory=cluster.Resources)


def main(a: Arguments) -> None:
    """Run it."""
    scale, resources = study.find_scale("demo", a.scale, a.output), a.resources
    graph = study.stages(("demo",), scale)
    if resources.dry_run:
        print(*study.describe(graph), sep="\n")
    if resources.cluster == "auto":
        resources = _a_core_each(resources)
    cluster.launch_graph(graph, resources, scale.output)
    (report,) = graph[-1].jobs
    if report.is_complete() and not resources.dry_run:
        say(study.summary(dict.fromkeys(job.folder for stage in graph[:-1] for job in stage.jobs)))
        say(f"the report: {report.folder / 'index.html'}")
        say("next: open it in a browser; autosparse irp --help says how to prune networks of your own")


def _a_core_each(resources: cluster.Resources) -> cluster.Resources:
    """Give each job a core of this machine, on which such small networks train fastest, unless Slurm runs them."""
    local = resources.resolve("local")
    if local.cluster == "slurm":
        return resources
    local = replace(local, gpus_per_node=local.gpus_per_node or 0, cpus_per_task=local.cpus_per_task or 1)
    return replace(local, runs_at_once=local.runs_at_once or min(_AT_ONCE, local.side_by_side()))
