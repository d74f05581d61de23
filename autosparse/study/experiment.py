"""What an experiment consists of: parts, each of which names the runs that it needs and writes itself from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

from autosparse.autos import AutoS
from autosparse.autos.network import make_network
from autosparse.cluster import Job, Stage
from autosparse.criteria import ONE_SHOT
from autosparse.irp import SCORING_BATCH
from autosparse.pruning import Mask
from autosparse.store import TripleStore
from autosparse.study import figures, tables
from autosparse.study.consistency import concordance
from autosparse.study.document import LAYERS, Document
from autosparse.study.results import MEASURES, load, load_irp
from autosparse.study.runs import FitRun, IRPRun, PruneRun
from autosparse.study.sanity import SANITY
from autosparse.study.setting import Setting

_PAPERS_MEASURE = "accuracy_best_test"


class Part(Protocol):
    """A table or figure."""

    def jobs(self) -> list[Job]:
        """The runs that it needs, and those that they need; in any order, some perhaps twice."""

    def write(self, document: Document) -> None:
        """Add it to a report; all its runs are complete."""


@dataclass(frozen=True)
class Method:
    """A row of a table of accuracies.

    Attributes:
        label: its name there.
        by: a criterion's name, a fit of AutoS, or the runs of iterative pruning whose own masks are shown.
        sources: the runs of IRP that a fit needs.
        paper: the paper's accuracies in per cent, by sparsity.
    """

    label: str
    by: str | FitRun | tuple[IRPRun, ...]
    sources: tuple[IRPRun, ...] = ()
    paper: dict[float, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Accuracies:
    """Accuracy after pruning, by method and sparsity: a table with the paper's figures beside, and curves.

    Attributes:
        title: of the table.
        stem: of its figure's file name.
        output: folder of all runs.
        setting: what is pruned and trained.
        methods: its rows.
        sparsities, seeds: of the runs of each.
        checked: labels of the rows whose sanity checks are run, at the last sparsity but one.
        dense: runs whose first training is that of the dense network.
    """

    title: str
    stem: str
    output: Path
    setting: Setting
    methods: tuple[Method, ...]
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]
    checked: tuple[str, ...] = ()
    dense: tuple[IRPRun, ...] = ()

    def jobs(self) -> list[Job]:
        needed: list[Job] = [*self.dense]
        for method in self.methods:
            if isinstance(method.by, tuple):
                needed += method.by
                continue
            needed += [*method.sources, *([method.by] if isinstance(method.by, FitRun) else [])]
            needed += [run for sparsity in self.sparsities for run in self._runs(method, sparsity)]
            needed += [run for check in self._checks(method) for run in self._runs(method, self._checked_at, check)]
        return needed

    def write(self, document: Document) -> None:
        document.heading(self.title, 3)
        runs = [run.folder for run in self.jobs() if isinstance(run, PruneRun)]
        dense = load_irp(*{run.folder for run in self.dense}) if self.dense else pd.DataFrame()
        iterative = [run for method in self.methods if isinstance(method.by, tuple) for run in method.by]
        tables.one_recipe(load(*dict.fromkeys(runs)), dense, *[load_irp(run.folder) for run in iterative])
        seeds = ", ".join(map(str, self.seeds))
        reference = f"; dense: {tables.dense_accuracy(dense)}" if len(dense) else ""
        document.text(
            f"{self.setting.name}: {MEASURES['accuracy']}, %; mean ± deviation over seeds {seeds}{reference}."
        )
        document.table(self._frame("accuracy"))
        if any(method.paper for method in self.methods):
            document.text(f"Beside the paper: {MEASURES[_PAPERS_MEASURE]}, %, the difference in brackets.")
            document.table(self._beside_paper())
        if self.checked:
            document.text(f"Sanity checks at {100 * self._checked_at:g}%: the last epoch's accuracy, %.")
            document.table(self._sanity())
        figure = figures.lines(self._curves(), f"{self.title}: {self.setting.name}")
        document.figure(figure, self.stem, "Test accuracy after the last epoch, mean and deviation over seeds.")
        document.figure(figures.layer_densities(self._pruned(), self.title), f"{self.stem}_layers", LAYERS)

    @property
    def _checked_at(self) -> float:
        return self.sparsities[-2:][0]

    def _checks(self, method: Method) -> list[str]:
        return [check for check in SANITY if check != "none"] if method.label in self.checked else []

    def _runs(self, method: Method, sparsity: float, sanity: str = "none") -> list[PruneRun]:
        assert not isinstance(method.by, tuple)
        criterion = method.by if isinstance(method.by, str) else str(method.by.folder)
        return [PruneRun(self.output, self.setting, criterion, sparsity, seed, sanity) for seed in self.seeds]

    def _pruned(self) -> pd.DataFrame:
        """The rows of `results.load` with the methods' labels."""
        found = [
            load(*(run.folder for sparsity in self.sparsities for run in self._runs(method, sparsity))).assign(
                criterion=method.label
            )
            for method in self.methods
            if not isinstance(method.by, tuple)
        ]
        return pd.concat(found)

    def _values(self, method: Method, sparsity: float, measure: str, sanity: str = "none") -> pd.Series:
        """A measure of each seed's run; of each run of IRP, that of the mask nearest to the sparsity."""
        if isinstance(method.by, tuple):
            found = tables.nearest(load_irp(*(run.folder for run in method.by)), sparsity)
        else:
            found = load(*(run.folder for run in self._runs(method, sparsity, sanity)))
        return found[measure]

    def _frame(self, measure: str) -> pd.DataFrame:
        rows = [
            [tables.cell(self._values(method, sparsity, measure)) for sparsity in self.sparsities]
            for method in self.methods
        ]
        return self._table(rows)

    def _beside_paper(self) -> pd.DataFrame:
        rows = []
        for method in self.methods:
            cells = []
            for sparsity in self.sparsities:
                here, there = self._values(method, sparsity, _PAPERS_MEASURE), method.paper.get(sparsity)
                beside = f"{there:.2f} → " if there is not None else ""
                gap = f" ({100 * here.mean() - there:+.2f})" if there is not None and len(here) else ""
                cells.append(f"{beside}{tables.cell(here)}{gap}")
            rows.append(cells)
        return self._table(rows)

    def _table(self, rows: list[list[str]]) -> pd.DataFrame:
        columns = [f"{100 * sparsity:g}%" for sparsity in self.sparsities]
        index = [method.label for method in self.methods]
        return pd.DataFrame(rows, index=index, columns=columns).rename_axis(index="method")

    def _sanity(self) -> pd.DataFrame:
        checked = [method for method in self.methods if method.label in self.checked]
        rows = [
            [tables.cell(self._values(method, self._checked_at, "accuracy", check)) for check in SANITY]
            for method in checked
        ]
        columns = ["as it is", *[check for check in SANITY if check != "none"]]
        return pd.DataFrame(rows, index=[method.label for method in checked], columns=columns).rename_axis("method")

    def _curves(self) -> dict[str, pd.DataFrame]:
        found = {}
        for method in self.methods:
            values = [self._values(method, sparsity, "accuracy") for sparsity in self.sparsities]
            rows = {"sparsity": self.sparsities, "mean": [v.mean() for v in values], "std": [v.std() for v in values]}
            found[method.label] = pd.DataFrame(rows).fillna({"std": 0.0}).dropna()
        return found


@dataclass(frozen=True)
class Predictions:
    """Survival as it was and as AutoS predicts it, before and after its fit (paper, Figures 4 and 5)."""

    title: str
    stem: str
    fits: tuple[Method, ...]
    before: bool = False

    def jobs(self) -> list[Job]:
        return [run for fit in self.fits for run in (*fit.sources, fit.by) if isinstance(run, Job)]

    def write(self, document: Document) -> None:
        document.heading(self.title, 3)
        for fit in self.fits:
            assert isinstance(fit.by, FitRun)
            autos, store = AutoS.load(fit.by.folder), TripleStore.open(fit.sources[0].folder)
            stem = f"{self.stem}_{fit.by.folder.name}"
            if self.before:
                untrained = make_network(autos.backbone, autos.features, fit.by.how.seed).eval()
                blank = AutoS(untrained, autos.backbone, autos.features, autos.card)
                figure = figures.truth_and_prediction(blank, store)
                document.figure(figure, f"{stem}_before", f"{fit.label}, before its fit.")
            figure = figures.truth_and_prediction(autos, store)
            document.figure(figure, f"{stem}_after", f"{fit.label}: as it was, and as predicted after the fit.")
            document.figure(figures.learned_map(autos), f"{stem}_map", f"{fit.label}: the learned map.")


@dataclass(frozen=True)
class Scores:
    """Survival beside the initial weight, and beside SNIP and GraSP at initialization (paper, Figure 1)."""

    title: str
    stem: str
    runs: tuple[IRPRun, ...]

    def jobs(self) -> list[Job]:
        return [*self.runs]

    def write(self, document: Document) -> None:
        document.heading(self.title, 3)
        for run in self.runs:
            store = TripleStore.open(run.folder)
            theta, grad = store.theta(), store.grad()
            accelerator = Accelerator()
            model, data = run.setting.make(run.seed, accelerator)
            batches = data.scoring(SCORING_BATCH, run.setting.grad_batches)
            with torch.no_grad():
                flow = ONE_SHOT["grasp"](run.seed)(model, Mask.full(store.layout, accelerator.device), batches)
            columns = {"theta": theta, "SNIP: |theta grad|": np.abs(theta * grad), "GraSP": flow.cpu().numpy()}
            figure = figures.survival_beside(columns, store.survival() / store.iterations)
            name = run.folder.name
            document.figure(figure, f"{self.stem}_{name}", f"{name}: survival beside what is known at initialization.")


@dataclass(frozen=True)
class Agreement:
    """Concordance of survival between runs of IRP (paper, Table 9, eq. 5).

    `pairs`: by label, the pairs of runs from the same initial weights, and from different ones; one pair a repetition.
    """

    title: str
    pairs: dict[str, tuple[tuple[tuple[IRPRun, IRPRun], ...], tuple[tuple[IRPRun, IRPRun], ...]]]
    paper: dict[str, tuple[float | None, float | None]]

    def jobs(self) -> list[Job]:
        return [run for kinds in self.pairs.values() for pairs in kinds for pair in pairs for run in pair]

    def write(self, document: Document) -> None:
        document.heading(self.title, 3)
        document.text("Concordance correlation coefficient of survival: the paper → here, mean ± deviation.")
        rows = []
        for label, kinds in self.pairs.items():
            cells = []
            for pairs, there in zip(kinds, self.paper.get(label, (None, None)), strict=True):
                found = pd.Series([concordance(*(TripleStore.open(run.folder) for run in pair)) for pair in pairs])
                deviation = f" ± {found.std():.4f}" if len(found) > 1 else ""
                beside = f"{there:.4f} → " if there is not None else ""
                cells.append(f"{beside}{found.mean():.4f}{deviation}")
            rows.append(cells)
        columns = ["same initial weights", "different"]
        document.table(pd.DataFrame(rows, index=list(self.pairs), columns=columns).rename_axis("runs of IRP"))


def graph(parts: Sequence[Part]) -> list[Stage]:
    """The stages that make the runs of parts, each run once."""
    jobs = {job.folder: job for part in parts for job in part.jobs()}
    pruned = [job for job in jobs.values() if isinstance(job, PruneRun)]
    found = [
        Stage("irp", tuple(job for job in jobs.values() if isinstance(job, IRPRun))),
        Stage("autos", tuple(job for job in jobs.values() if isinstance(job, FitRun)), after=("irp",)),
        Stage("prune", tuple(job for job in pruned if not job.learned)),
        Stage("prune-autos", tuple(job for job in pruned if job.learned), after=("autos",)),
    ]
    return [stage for stage in found if stage.jobs]
