"""What the report of an experiment is made of: tables and figures that name the runs that they need."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, get_args

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

from autosparse.autos import AutoS, LookupTable
from autosparse.autos.autos import make_network
from autosparse.cluster import Job
from autosparse.config import Sanity
from autosparse.criteria.grasp import GraSP
from autosparse.jobs import FitRun, IRPRun, PruneRun
from autosparse.page import Document, numbered
from autosparse.pruning import Mask
from autosparse.store import TripleStore
from autosparse.study import charts, compare, learned, results
from autosparse.study.report import CHECKS, CURVES, LAYERS, add_switch, add_trainings, overview
from autosparse.study.scale import Scale

_PAPERS_MEASURE = "test_best"

_SANITY: tuple[Sanity, ...] = get_args(Sanity)


class Part(Protocol):
    """A table or figure."""

    def jobs(self) -> list[Job]:
        """The runs that it needs, and those that they need; in any order, some perhaps twice."""

    def write(self, document: Document) -> None:
        """Add it to a report; all its runs are complete."""


@dataclass(frozen=True)
class Method:
    """A way to prune: a row of a table, a line of a figure."""

    label: str
    """Its name there."""
    by: str | FitRun | None
    """A criterion's name, a fit of AutoS, or None for iterative pruning, whose own masks are shown."""
    sources: tuple[IRPRun, ...] = ()
    """The runs of IRP that a fit learns from, or whose masks are shown."""
    paper: Mapping[float, float] = field(default_factory=dict)
    """The paper's accuracies in per cent, by sparsity."""
    how: Mapping[str, Any] = field(default_factory=dict)
    """Options of its runs of pruning, see `PruneConfig`: how far it looks ahead, or how long it trains."""
    family: str = ""
    """What it is a variant of, at another cost, in figures of the cost; not drawn there without."""

    def jobs(self) -> list[Job]:
        """The runs that make its criterion."""
        return [*self.sources, *([self.by] if isinstance(self.by, FitRun) else [])]


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """Accuracy after pruning, by method and sparsity: a table with the paper's figures beside, and curves."""

    title: str
    """The heading of the table."""
    stem: str
    """The start of its figures' file names."""
    scale: Scale
    """How often everything is repeated, and where the runs lie."""
    pair: str
    """What is pruned and trained, a key of the scale's settings."""
    methods: tuple[Method, ...]
    """The rows."""
    sparsities: tuple[float, ...]
    """The columns."""
    checked: tuple[str, ...] = ()
    """The labels of the rows whose sanity checks are run, at the last sparsity but one."""

    def jobs(self) -> list[Job]:
        needed: list[Job] = [*self._dense()]
        for method in self.methods:
            needed += method.jobs()
            needed += [run for sparsity in self.sparsities for run in self._runs(method, sparsity)]
            if method.label in self.checked:
                needed += [run for check in _SANITY for run in self._runs(method, self._checked_at, check)]
        return needed

    def write(self, document: Document) -> None:
        document.heading(self.title, 3)
        pruned = [run.folder for run in self.jobs() if isinstance(run, PruneRun)]
        iterative = [run.folder for method in self.methods if not method.by for run in method.sources]
        compare.one_recipe(results.load(*dict.fromkeys(pruned)), results.load_irp(*iterative))
        dense = results.load(*(run.folder for run in self._dense()))
        measures = [measure for measure in compare.MEASURES if dense[measure].notna().any()]
        add_switch(document, "accuracy", measures)
        levels = {measure: 100 * dense[measure].astype(float).mean() for measure in measures}
        points = pd.concat([self._points(measure) for measure in measures], ignore_index=True)
        codes = numbered(method.label for method in self.methods)
        document.chart(charts.against_sparsity(points, "accuracy", "higher", levels, codes), self.stem, CURVES)
        document.tables({measure: (self._caption(measure, dense), self._table(measure)) for measure in measures})
        if iterative:
            document.note("Iterative: its own masks, trained from its own weights; interpolated between two of them.")
        if self.checked:
            document.chart(charts.checks(self._check_points(), "accuracy", codes), f"{self.stem}_checks", CHECKS)
            document.table(
                self._sanity(), f"Sanity checks at {100 * self._checked_at:g}%: the last epoch's accuracy, %."
            )
        pruned_rows = self._pruned()
        document.chart(charts.layer_densities(pruned_rows, codes), f"{self.stem}_layers", LAYERS)
        add_trainings(document, pruned_rows, self.stem, codes)

    def _dense(self) -> list[PruneRun]:
        """The unpruned network."""
        return self.scale.prune(self.pair, "magnitude", 0.0)

    @property
    def _checked_at(self) -> float:
        return self.sparsities[-2:][0]

    def _runs(self, method: Method, sparsity: float, sanity: Sanity = "none") -> list[PruneRun]:
        """A run a seed; none for iterative pruning."""
        return self.scale.prune(self.pair, method.by, sparsity, sanity, **method.how) if method.by else []

    def _pruned(self) -> pd.DataFrame:
        """The rows of `results.load` with the methods' labels."""
        found = [
            results.load(*(run.folder for sparsity in self.sparsities for run in self._runs(method, sparsity)))
            for method in self.methods
        ]
        labels = [method.label for method in self.methods]
        pairs = zip(found, labels, strict=True)
        return pd.concat([frame.assign(criterion=label) for frame, label in pairs if len(frame)])

    def _values(self, method: Method, sparsity: float, measure: str, sanity: Sanity = "none") -> pd.Series:
        """A measure of each seed's run; of each run of IRP, that of its own masks."""
        if not method.by:
            masks = results.load_irp(*(run.folder for run in method.sources))
            return compare.interpolated(masks, sparsity, measure)
        return results.load(*(run.folder for run in self._runs(method, sparsity, sanity)))[measure]

    def _beside_paper(self, measure: str) -> bool:
        return measure == _PAPERS_MEASURE and any(method.paper for method in self.methods)

    def _caption(self, measure: str, dense: pd.DataFrame) -> str:
        name, seeds = self.scale.settings[self.pair].name, ", ".join(map(str, self.scale.seeds))
        beside = "; the paper's → here (the difference)" if self._beside_paper(measure) else ""
        over = f"mean ± deviation over seeds {seeds}{beside}"
        meaning = compare.MEASURES[measure].format("accuracy")
        return f"{name}, {meaning}, %: {over}; dense: {compare.cell(dense[measure])}."

    def _table(self, measure: str) -> pd.DataFrame:
        rows, beside_paper = {}, self._beside_paper(measure)
        for method in self.methods:
            cells = []
            for sparsity in self.sparsities:
                here, there = self._values(method, sparsity, measure), method.paper.get(sparsity)
                said = compare.cell(here)
                if beside_paper and there is not None:
                    said = f"{there:.2f} → {said}" + (f" ({100 * here.mean() - there:+.2f})" if len(here) else "")
                cells.append(said)
            rows[method.label] = cells
        return _frame(rows, [f"{100 * sparsity:g}%" for sparsity in self.sparsities], "method")

    def _sanity(self) -> pd.DataFrame:
        rows = {
            method.label: [compare.cell(self._values(method, self._checked_at, "test", check)) for check in _SANITY]
            for method in self.methods
            if method.label in self.checked
        }
        return _frame(rows, [*map(_named, _SANITY)], "method")

    def _check_points(self) -> pd.DataFrame:
        """What `charts.checks` draws."""
        return pd.DataFrame(
            [
                {"series": method.label, "sparsity": self._checked_at, "check": _named(check), **_spread(values)}
                for method in self.methods
                if method.label in self.checked
                for check in _SANITY
                for values in [self._values(method, self._checked_at, "test", check)]
            ]
        )

    def _points(self, measure: str) -> pd.DataFrame:
        """What `charts.against_sparsity` draws."""
        rows = [
            {"series": method.label, "measure": measure, "sparsity": sparsity, "iterative": not method.by}
            | _spread(self._values(method, sparsity, measure))
            for method in self.methods
            for sparsity in self.sparsities
        ]
        return pd.DataFrame(rows).dropna(subset="mean")


@dataclass(frozen=True)
class Agreement:
    """Concordance of survival between runs of IRP (paper, Table 9, eq. 5)."""

    title: str
    """The heading of the table."""
    pairs: Mapping[str, tuple[list[tuple[IRPRun, IRPRun]], list[tuple[IRPRun, IRPRun]]]]
    """The pairs by label, of runs from the same initial weights, and from different ones; one pair a repetition."""
    paper: Mapping[str, tuple[float, float]]
    """The paper's concordance of both kinds, by label."""

    def jobs(self) -> list[Job]:
        return [run for kinds in self.pairs.values() for pairs in kinds for pair in pairs for run in pair]

    def write(self, document: Document) -> None:
        document.heading(self.title, 3)
        document.text("Concordance correlation coefficient of survival: the paper → here, mean ± deviation.")
        rows = {}
        for label, kinds in self.pairs.items():
            cells = []
            for pairs, there in zip(kinds, self.paper[label], strict=True):
                stores = [[TripleStore.open(run.folder) for run in pair] for pair in pairs]
                found = pd.Series([compare.concordance(a, b) for a, b in stores])
                deviation = f" ± {found.std():.4f}" if len(found) > 1 else ""
                cells.append(f"{there:.4f} → {found.mean():.4f}{deviation}")
            rows[label] = cells
        document.table(_frame(rows, ["same initial weights", "different"], "runs of IRP"))


@dataclass(frozen=True)
class Predictions:
    """Survival as it was and as AutoS predicts it, before and after its fit (paper, Figures 4 and 5)."""

    title: str
    """The heading of the figures."""
    stem: str
    """The start of their file names."""
    methods: tuple[Method, ...]
    """The fits."""
    before: bool = False
    """Whether the network before its fit is shown, too."""

    def jobs(self) -> list[Job]:
        return [run for method in self.methods for run in method.jobs()]

    def write(self, document: Document) -> None:
        document.heading(self.title, 3)
        for method in self.methods:
            fit, label = method.by, method.label
            assert isinstance(fit, FitRun)
            autos, store = AutoS.load(fit.folder), TripleStore.open(method.sources[0].folder)
            stem = f"{self.stem}_{fit.folder.name}"
            if self.before:
                untrained = make_network(autos.backbone, autos.features, fit.config.seed).eval()
                blank = AutoS(untrained, autos.backbone, autos.features, autos.card)
                document.chart(
                    learned.truth_and_prediction(blank, store), f"{stem}_before", f"{label}, before its fit."
                )
            after = learned.truth_and_prediction(autos, store)
            document.chart(after, f"{stem}_after", f"{label}: as it was, and as predicted after the fit.")
            table = LookupTable.load(fit.folder)
            document.chart(learned.learned_map(autos, table), f"{stem}_map", f"{label}: the learned map.")


@dataclass(frozen=True)
class Scores:
    """Survival beside the initial weight, and beside SNIP and GraSP at initialization (paper, Figure 1)."""

    title: str
    """The heading of the figure."""
    stem: str
    """The start of its file name."""
    run: IRPRun
    """The run whose survival is shown."""

    def jobs(self) -> list[Job]:
        return [self.run]

    def write(self, document: Document) -> None:
        document.heading(self.title, 3)
        setting, store, accelerator = self.run.setting, TripleStore.open(self.run.folder), Accelerator()
        seed = store.run["seed"]
        model, data = setting.make(seed, accelerator)
        batches = data.scoring(limit=setting.grad_batches)
        with torch.no_grad():
            flow = GraSP()(model, Mask.full(store.layout, accelerator.device), batches)
        theta, grad = store.theta(), store.grad()
        columns = {"theta": theta, "SNIP: |theta grad|": np.abs(theta * grad), "GraSP": flow.cpu().numpy()}
        chart = learned.survival_beside(columns, store.survival() / store.iterations)
        name = self.run.folder.name
        document.chart(chart, f"{self.stem}_{name}", f"{name}: survival beside what is known at initialization.")


@dataclass(frozen=True)
class Overview:
    """All that a set of runs has brought, as `launch/report.py` shows it."""

    runs: tuple[Job, ...]
    """The runs of any kind, with those that they need."""

    def jobs(self) -> list[Job]:
        return [*self.runs]

    def write(self, document: Document) -> None:
        overview(document, [run.folder for run in self.runs])


def _frame(rows: Mapping[str, list[str]], columns: list[str], kind: str) -> pd.DataFrame:
    """A table of cells by the labels of its rows, whose kind its first column is headed by."""
    return pd.DataFrame(list(rows.values()), index=list(rows), columns=columns).rename_axis(kind)


def _spread(values: pd.Series) -> dict[str, Any]:
    """Mean and deviation of some accuracies, in per cent; 0 is the deviation of a single one."""
    values = 100 * values.dropna().astype(float)
    return {"mean": values.mean(), "std": values.std() if len(values) > 1 else 0.0, "runs": len(values)}


def _named(check: Sanity) -> str:
    return "as it is" if check == "none" else check
