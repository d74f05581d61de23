"""Parts of an experiment's report: tables and figures that name the runs they need."""

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
from autosparse.criteria import Scoring
from autosparse.criteria.grasp import grasp
from autosparse.jobs import FitRun, IRPRun, PruneRun
from autosparse.metrics import factor, label
from autosparse.page import Document, number_series
from autosparse.pruning import Mask
from autosparse.store import TripleStore
from autosparse.study import charts, compare, learned, results
from autosparse.study.report import AS_IT_IS, CHECKS, CURVES, LAYERS, add_switch, add_trainings, overview
from autosparse.study.scale import Scale

_PAPERS_MEASURE = "test_best"
_COST = (
    "The test metric after the last epoch against all that was trained for it, in trainings: mean and standard "
    "deviation over seeds. Variants of one method at several costs are joined."
)


class Part(Protocol):
    """A table or figure."""

    def jobs(self) -> list[Job]:
        """Return the runs that it needs and those that they need, in any order; runs may repeat."""

    def write(self, document: Document) -> None:
        """Add it to a report; all its runs are complete."""


@dataclass(frozen=True)
class Method:
    """A way to prune: a row of a table, a line of a figure."""

    label: str
    """Name of the row and of the line."""
    by: str | FitRun | None
    """Name of a criterion, a fit of AutoS, or None for the masks of iterative pruning."""
    sources: tuple[IRPRun, ...] = ()
    """Runs of IRP that a fit learns from, or whose masks are shown."""
    paper: Mapping[float, float] = field(default_factory=dict)
    """The paper's accuracies in per cent, by sparsity."""
    how: Mapping[str, Any] = field(default_factory=dict)
    """Options of its runs of pruning, see `PruneConfig`."""
    family: str = ""
    """Methods of one family differ in their cost; figures of the cost join them and leave out methods without one."""

    def jobs(self) -> list[Job]:
        """Return the runs that make its criterion."""
        return [*self.sources, *([self.by] if isinstance(self.by, FitRun) else [])]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods compared by sparsity: tables of a metric after training, and figures."""

    title: str
    """Heading."""
    stem: str
    """Start of its figures' file names."""
    scale: Scale
    """Seeds and the folder of the runs."""
    pair: str
    """Network and data, a key of the scale's settings."""
    methods: tuple[Method, ...]
    """Rows of the table."""
    sparsities: tuple[float, ...]
    """Columns of the table."""
    cost: bool = False
    """Whether the table and the figure show the cost instead of the paper's numbers, curves and layers."""
    checked: tuple[str, ...] = ()
    """Labels of the rows with sanity checks, at the last sparsity but one."""
    checks: tuple[Sanity, ...] = get_args(Sanity)[1:]
    """The sanity checks."""

    def jobs(self) -> list[Job]:
        needed: list[Job] = [*self._dense()]
        for method in self.methods:
            needed += method.jobs()
            needed += [run for sparsity in self.sparsities for run in self._runs(method, sparsity)]
            if method.label in self.checked:
                needed += [run for check in self.checks for run in self._runs(method, self._checked_at, check)]
        return needed

    def write(self, document: Document) -> None:
        rows, dense = self.rows(), results.load(*(run.folder for run in self._dense()))
        compare.one_recipe(dense, rows)
        document.heading(self.title, 3)
        if self.cost:
            self._write_costs(document, rows, dense)
        else:
            self._write_measures(document, rows, dense)

    def rows(self) -> pd.DataFrame:
        """Return one row per run: those of `results` with `method`, `family`, `at` (the sparsity) and `check`."""
        frames = []
        for method in self.methods:
            masks = results.load_irp(*(run.folder for run in method.sources)) if not method.by else pd.DataFrame()
            for sparsity in self.sparsities:
                checks = self.checks if method.label in self.checked and sparsity == self._checked_at else ()
                for check in ("none", *checks):
                    if method.by:
                        frame = results.load(*(run.folder for run in self._runs(method, sparsity, check)))
                    else:
                        frame = compare.reached(masks, sparsity)
                    frames.append(frame.assign(method=method.label, family=method.family, at=sparsity, check=check))
        return pd.concat(frames, ignore_index=True)

    def cost_table(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the mean cost and metric of each method; **bold** beats all others of the same cost."""
        metric, better = compare.metric_of(rows)
        cost = rows.groupby("method")["cost"].mean()
        table = {}
        for method in self.methods:
            cells = [f"{cost[method.label]:.1f}" if method.by else "–"]
            for sparsity in self.sparsities:
                groups = dict(iter(rows[rows["at"] == sparsity].groupby("method")))
                values = groups[method.label]["test"]
                others = [
                    group["test"]
                    for name, group in groups.items()
                    if name != method.label and abs(cost[name] - cost[method.label]) < 0.1
                ]
                text = compare.cell(values, metric)
                if others and all(compare.beats(values, other, better) for other in others):
                    text = f"**{text}**"
                cells.append(text if method.by else f"{text} ({groups[method.label]['cost'].mean():.0f})")
            table[method.label] = cells
        return _table(table, ["cost", *map(_per_cent, self.sparsities)], "method")

    def _write_costs(self, document: Document, rows: pd.DataFrame, dense: pd.DataFrame) -> None:
        metric, better = compare.metric_of(rows)
        unchecked = rows[rows["check"] == "none"]
        if rows["family"].any():
            panels = {f"{_per_cent(s)} sparsity": unchecked[unchecked["at"] == s] for s in self.sparsities}
            document.chart(charts.cost_chart(panels), self.stem, f"{_COST} One panel per sparsity.")
        caption = (
            f"Test {metric} after the last epoch, {better} is better; mean ± standard deviation over seeds "
            f"{self._seeds()}; dense: {compare.cell(dense['test'], metric)}. Cost: trainings in all, the last one "
            "included. Bold: better than all others of its cost by two standard deviations, the larger of both."
        )
        document.table(self.cost_table(unchecked), caption)
        if self.checked:
            document.table(self._check_table(rows, metric), f"Sanity checks at {_per_cent(self._checked_at)}.")

    def _write_measures(self, document: Document, rows: pd.DataFrame, dense: pd.DataFrame) -> None:
        metric, better = compare.metric_of(rows)
        measures = [measure for measure in compare.MEASURES if dense[measure].notna().any()]
        codes = number_series(method.label for method in self.methods)
        iterative = {method.label: not method.by for method in self.methods}
        rows = rows.assign(series=rows["method"], sparsity=rows["at"], check=rows["check"].replace("none", AS_IT_IS))
        unchecked = rows[rows["check"] == AS_IT_IS]
        points = pd.concat(
            [charts.spread(unchecked, ("series", "sparsity"), name).assign(measure=name) for name in measures],
            ignore_index=True,
        )
        points["iterative"] = points["series"].map(iterative)
        levels = {measure: factor(metric) * dense[measure].astype(float).mean() for measure in measures}
        add_switch(document, metric, measures)
        document.chart(charts.sparsity_chart(points, metric, better, levels, codes), self.stem, CURVES)
        document.tables({m: (self._caption(m, metric, dense), self._measure_table(unchecked, m)) for m in measures})
        if any(iterative.values()):
            document.note("Iterative: its own masks, trained from its own weights; interpolated between two of them.")
        if self.checked:
            checked = rows[rows["method"].isin(self.checked) & (rows["at"] == self._checked_at)]
            check_points = charts.spread(checked, ("series", "sparsity", "check"))
            document.chart(charts.check_chart(check_points, metric, codes), f"{self.stem}_checks", CHECKS)
            caption = f"Sanity checks at {_per_cent(self._checked_at)}: the last epoch's {label(metric)}."
            document.table(self._check_table(rows, metric), caption)
        pruned = unchecked[~unchecked["method"].map(iterative)].assign(criterion=lambda frame: frame["method"])
        document.chart(charts.layer_chart(pruned, codes), f"{self.stem}_layers", LAYERS)
        add_trainings(document, pruned, self.stem, codes)

    def _measure_table(self, rows: pd.DataFrame, measure: str) -> pd.DataFrame:
        metric, _ = compare.metric_of(rows)
        table = {}
        for method in self.methods:
            cells = []
            for sparsity in self.sparsities:
                values = rows[(rows["method"] == method.label) & (rows["at"] == sparsity)][measure].dropna()
                text, reported = compare.cell(values, metric), method.paper.get(sparsity)
                if measure == _PAPERS_MEASURE and reported is not None:
                    difference = f" ({100 * values.mean() - reported:+.2f})" if len(values) else ""
                    text = f"{reported:.2f} → {text}{difference}"
                cells.append(text)
            table[method.label] = cells
        return _table(table, [*map(_per_cent, self.sparsities)], "method")

    def _caption(self, measure: str, metric: str, dense: pd.DataFrame) -> str:
        compared = measure == _PAPERS_MEASURE and any(method.paper for method in self.methods)
        paper = "; the paper's → here (the difference)" if compared else ""
        meaning = compare.MEASURES[measure].format(metric) + (", %" if factor(metric) > 1 else "")
        return (
            f"{self.scale.settings[self.pair].name}, {meaning}: mean ± standard deviation over seeds {self._seeds()}"
            f"{paper}; dense: {compare.cell(dense[measure], metric)}."
        )

    def _check_table(self, rows: pd.DataFrame, metric: str) -> pd.DataFrame:
        rows = rows[rows["at"] == self._checked_at].assign(check=rows["check"].replace("none", AS_IT_IS))
        names = [AS_IT_IS, *self.checks]
        table = {
            name: [
                compare.cell(rows[(rows["method"] == name) & (rows["check"] == check)]["test"], metric)
                for check in names
            ]
            for name in (method.label for method in self.methods)
            if name in self.checked
        }
        return _table(table, names, "method")

    def _dense(self) -> list[PruneRun]:
        """Return the runs of the unpruned network."""
        return self.scale.prune(self.pair, "magnitude", 0.0)

    @property
    def _checked_at(self) -> float:
        return self.sparsities[-2:][0]

    def _runs(self, method: Method, sparsity: float, check: Sanity = "none") -> list[PruneRun]:
        """Return one run per seed; none for iterative pruning."""
        return self.scale.prune(self.pair, method.by, sparsity, check, **method.how) if method.by else []

    def _seeds(self) -> str:
        return ", ".join(map(str, self.scale.seeds))


@dataclass(frozen=True, kw_only=True)
class CostFigure:
    """One figure of several comparisons at one sparsity."""

    title: str
    """Heading."""
    stem: str
    """File name."""
    tables: tuple[Comparison, ...]
    """Panels."""
    sparsity: float
    """Sparsity of all panels."""

    def jobs(self) -> list[Job]:
        return [job for table in self.tables for job in table.jobs()]

    def write(self, document: Document) -> None:
        panels = {}
        for table in self.tables:
            rows = table.rows()
            selected = rows[(rows["at"] == self.sparsity) & (rows["check"] == "none")]
            panels[table.scale.settings[table.pair].name.replace("_", " on ")] = selected
        document.heading(self.title, 3)
        document.chart(charts.cost_chart(panels), self.stem, _COST)


@dataclass(frozen=True)
class Agreement:
    """Concordance of survival between runs of IRP (paper, Table 9, eq. 5)."""

    title: str
    """Heading."""
    pairs: Mapping[str, tuple[list[tuple[IRPRun, IRPRun]], list[tuple[IRPRun, IRPRun]]]]
    """Pairs of runs by label, from the same initial weights and from different ones; one pair per repetition."""
    paper: Mapping[str, tuple[float, float]]
    """The paper's concordance for both kinds of pairs, by label."""

    def jobs(self) -> list[Job]:
        return [run for kinds in self.pairs.values() for pairs in kinds for pair in pairs for run in pair]

    def write(self, document: Document) -> None:
        document.heading(self.title, 3)
        document.text("Concordance correlation coefficient of survival: the paper → here, mean ± standard deviation.")
        table = {}
        for name, kinds in self.pairs.items():
            cells = []
            for pairs, reported in zip(kinds, self.paper[name], strict=True):
                stores = [[TripleStore.open(run.folder) for run in pair] for pair in pairs]
                values = pd.Series([compare.concordance(a, b) for a, b in stores])
                deviation = f" ± {values.std():.4f}" if len(values) > 1 else ""
                cells.append(f"{reported:.4f} → {values.mean():.4f}{deviation}")
            table[name] = cells
        document.table(_table(table, ["same initial weights", "different"], "runs of IRP"))


@dataclass(frozen=True)
class Predictions:
    """Survival and its prediction by AutoS before and after the fit (paper, Figures 4 and 5)."""

    title: str
    """Heading."""
    stem: str
    """Start of its figures' file names."""
    methods: tuple[Method, ...]
    """The fits."""
    before: bool = False
    """Whether the network before its fit is shown, too."""

    def jobs(self) -> list[Job]:
        return [run for method in self.methods for run in method.jobs()]

    def write(self, document: Document) -> None:
        document.heading(self.title, 3)
        for method in self.methods:
            fit, name = method.by, method.label
            assert isinstance(fit, FitRun)
            autos, store = AutoS.load(fit.folder), TripleStore.open(method.sources[0].folder)
            stem = f"{self.stem}_{fit.folder.name}"
            if self.before:
                untrained = make_network(autos.backbone, autos.features, fit.config.seed).eval()
                blank = AutoS(untrained, autos.backbone, autos.features, autos.card)
                document.chart(learned.survival_charts(blank, store), f"{stem}_before", f"{name}, before its fit.")
            after = learned.survival_charts(autos, store)
            document.chart(after, f"{stem}_after", f"{name}: as it was, and as predicted after the fit.")
            table = LookupTable.load(fit.folder)
            document.chart(learned.score_map(autos, table), f"{stem}_map", f"{name}: the learned map.")


@dataclass(frozen=True)
class Scores:
    """Survival against the initial weight, SNIP and GraSP at initialization (paper, Figure 1)."""

    title: str
    """Heading."""
    stem: str
    """Start of its figure's file name."""
    run: IRPRun
    """Run whose survival is shown."""

    def jobs(self) -> list[Job]:
        return [self.run]

    def write(self, document: Document) -> None:
        document.heading(self.title, 3)
        setting, store, accelerator = self.run.setting, TripleStore.open(self.run.folder), Accelerator()
        model, data = setting.make(store.run["seed"], accelerator)
        batches = data.scoring(limit=setting.grad_batches)
        with torch.no_grad():
            full = Mask.full(store.layout, accelerator.device)
            flow = grasp(model, full, Scoring(batches, batches.loss))
        theta, grad = store.theta(), store.grad()
        columns = {"theta": theta, "SNIP: |theta grad|": np.abs(theta * grad), "GraSP": flow.cpu().numpy()}
        chart = learned.initialization_chart(columns, store.survival() / store.iterations)
        name = self.run.folder.name
        document.chart(chart, f"{self.stem}_{name}", f"{name}: survival against values at initialization.")


@dataclass(frozen=True)
class Overview:
    """All results of a set of runs, as `launch/report.py` shows them."""

    runs: tuple[Job, ...]
    """Runs of any kind, with those that they need."""

    def jobs(self) -> list[Job]:
        return [*self.runs]

    def write(self, document: Document) -> None:
        overview(document, [run.folder for run in self.runs])


def _table(rows: Mapping[str, list[str]], columns: list[str], kind: str) -> pd.DataFrame:
    """Return a table of cells by the labels of its rows; `kind` heads its first column."""
    return pd.DataFrame([*rows.values()], index=pd.Index([*rows], name=kind), columns=columns)


def _per_cent(sparsity: float) -> str:
    return f"{100 * sparsity:g}%"
