"""The paper's tables and figures as a graph of jobs that ends in a report of them."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import Accelerator

from autosparse.cluster import Job, Stage
from autosparse.data import sources
from autosparse.errors import UserError
from autosparse.jobs import IRPRun, PruneRun
from autosparse.jobs.setting import Setting
from autosparse.study.document import Document
from autosparse.study.experiment import Part, graph
from autosparse.study.plans import PLANS
from autosparse.study.pretrained import pretrained
from autosparse.study.reporting import is_newer
from autosparse.study.results import load, load_irp
from autosparse.study.scale import SCALES

EXPERIMENTS = {**PLANS, pretrained.__name__: pretrained}
"""The paper's and those beside: name -> scale -> parts."""


@dataclass(frozen=True)
class PaperReport(Job):
    """Tables and figures by name, in `output/paper/<names>`."""

    output: Path
    names: tuple[str, ...]
    scale: str

    @property
    def folder(self) -> Path:
        return self.output / "paper" / ("all" if self.names == tuple(PLANS) else "-".join(self.names))

    def config(self) -> dict[str, Any]:
        return {"kind": "report", "names": [*self.names], "scale": self.scale}

    def is_complete(self) -> bool:
        return is_newer(self.folder, {job.folder for name in self.names for job in self._jobs(name)})

    def run(self, accelerator: Accelerator) -> None:
        if accelerator.is_main_process:
            papers = PLANS.keys() >= set(self.names)
            what = "The paper's tables and figures" if papers else "The criterion that comes with the package"
            document = Document(f"{what}, {self.scale} scale", self.folder)
            if papers and self.scale != "full":
                self._stand_ins(document)
            jobs = {job.folder: job for name in self.names for job in self._jobs(name)}
            pruned = load(*(folder for folder, job in jobs.items() if isinstance(job, PruneRun)))
            irp = load_irp(*(folder for folder, job in jobs.items() if isinstance(job, IRPRun)))
            document.rows(pd.concat([frame for frame in (pruned, irp) if len(frame)]))
            for name in self.names:
                about, *_ = (inspect.getdoc(EXPERIMENTS[name]) or "").split("\n\n")
                document.heading(about.split(": `")[0])
                document.code(f"python launch/paper.py {name} --scale {self.scale}")
                for part in self.parts(name):
                    part.write(document)
            document.write()
        accelerator.wait_for_everyone()

    def _stand_ins(self, document: Document) -> None:
        """Say what is not the paper's own."""
        rows = {
            pair.replace("/", " on "): f"{setting.network} on {setting.dataset}, {setting.make_recipe().epochs} epochs"
            for pair, setting in SCALES[self.scale].settings.items()
        }
        document.text("Not the paper's networks and data, so its accuracies are not to be expected, only their order:")
        document.table(pd.DataFrame({"here": rows}).rename_axis("the paper's"))
        rounds = ", ".join(f"{here} for {there}" for there, here in SCALES[self.scale].iterations.items())
        document.text(
            f"Iterations of pruning: {rounds}; backbone of AutoS: {SCALES[self.scale].backbones['resnet18']}."
        )

    def _jobs(self, name: str) -> list[Job]:
        return [job for part in self.parts(name) for job in part.jobs()]

    def parts(self, name: str) -> list[Part]:
        """What an experiment consists of."""
        return EXPERIMENTS[name](replace(SCALES[self.scale], output=self.output))


def stages(names: tuple[str, ...], scale: str, output: Path) -> list[Stage]:
    """The graph of some experiments; runs that they share come once."""
    report = PaperReport(output, names, scale)
    found = graph([part for name in names for part in report.parts(name)])
    return [*found, Stage("report", (report,), after=tuple(stage.name for stage in found), single=True)]


def check(stages: Sequence[Stage]) -> None:
    """Refuse what cannot run.

    Raises:
        UserError: data that is not there.
    """
    for setting in _settings(stages):
        setting.check()


def absent(stages: Sequence[Stage]) -> list[str]:
    """A line for each data set that is needed and not there: how to get it."""
    lines = list[str]()
    for setting in _settings(stages):
        try:
            sources.check(setting.dataset, setting.data_root)
        except UserError as error:
            lines.append(str(error))
    return sorted(set(lines))


def _settings(stages: Sequence[Stage]) -> set[Setting]:
    return {job.setting for stage in stages for job in stage.jobs if isinstance(job, IRPRun | PruneRun)}
