"""Parts of an experiment's report: tables and figures that name the runs they need.

A new kind of table is a class with the methods of `Part`. Its experiment is a function from a scale to parts, with a
name in `experiments.EXPERIMENTS`. Cells and comparisons of means come from `compare`.
"""

from collections.abc import Iterator, Mapping, Sequence
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
from autosparse.metrics import factor
from autosparse.page import Document
from autosparse.pruning import Mask
from autosparse.store import TripleStore
from autosparse.study import charts, compare, learned, report, results
from autosparse.study.compare import per_cent
from autosparse.study.scale import Scale

_PAPERS_MEASURE = "test_best"


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
    by: str | FitRun | None
    """Name of a criterion, a fit of AutoS, or None for the masks of iterative pruning."""
    sources: tuple[IRPRun, ...] = ()
    """Runs of IRP that a fit learns from, or whose masks are shown."""
    paper: Sequence[float] = ()
    """The paper's accuracies in per cent, at the sparsities of the table; a scale may show the last ones alone."""
    how: Mapping[str, Any] = field(default_factory=dict)
    """Options of its runs of pruning, see `PruneConfig`."""

    def jobs(self) -> list[Job]:
        """Return the runs that make its criterion."""
        return [*self.sources, *([self.by] if isinstance(self.by, FitRun) else [])]


@dataclass(frozen=True)
class Comparison:
    """Methods compared by sparsity: tables of a metric after training, and figures."""

    title: str
    stem: str
    """Start of its figures' file names."""
    scale: Scale
    pair: str
    """Network and data, a key of the scale's settings."""
    methods: tuple[Method, ...]
    """Rows of the table."""
    sparsities: tuple[float, ...]
    """Columns of the table."""
    checked: tuple[str, ...] = ()
    """Labels of the rows with sanity checks, at the last sparsity but one."""
    checks: tuple[Sanity, ...] = get_args(Sanity)[1:]

    def jobs(self) -> list[Job]:
        jobs: list[Job] = [*self._dense()]
        jobs += [job for method in self.methods for job in method.jobs()]
        return jobs + [run for *_, runs in self._runs() for run in runs]

    def write(self, document: Document) -> None:
        rows, dense = self.rows(), results.load(*(run.folder for run in self._dense()))
        compare.one_recipe(dense, rows)
        metric, _ = compare.metric_of(rows)
        codes = document.number(method.label for method in self.methods)
        document.heading(self.title, 3)
        unchecked = rows[rows["sanity"] == "none"]
        measures = report.add_curves(document, unchecked, dense, self.stem, codes)
        document.tables({m: (self._caption(m, metric, dense), self.measure_table(unchecked, m)) for m in measures})
        if unchecked["iterative"].any():
            document.note("Iterative: its own masks, trained from its own weights; interpolated between two of them.")
        if self.checked:
            report.add_checks(document, rows, self.stem, codes)
        pruned = unchecked[~unchecked["iterative"]]
        document.chart(charts.layer_chart(pruned, codes), f"{self.stem}_layers", report.LAYERS)
        report.add_trainings(document, pruned, self.stem, codes)

    def rows(self) -> pd.DataFrame:
        """Return the rows of `results`, with the label of the method as `criterion`, and with `iterative`."""
        frames = []
        for method, sparsity, check, runs in self._runs():
            folders = [run.folder for run in runs or method.sources]
            frame = results.load(*folders) if runs else compare.reached(results.load_irp(*folders), sparsity)
            frames.append(frame.assign(criterion=method.label, sparsity=sparsity, sanity=check))
        rows = pd.concat(frames, ignore_index=True)
        return rows.assign(iterative=rows["criterion"].isin([method.label for method in self.methods if not method.by]))

    def measure_table(self, rows: pd.DataFrame, measure: str) -> pd.DataFrame:
        """Return a measure by method and sparsity, with the paper's number and the difference if it is the paper's."""
        labels = pd.Index([method.label for method in self.methods], name="method")
        cells = compare.table(rows, "criterion", "sparsity", measure)
        table = cells.reindex(index=labels, columns=[*self.sparsities], fill_value="–")
        means = rows.groupby(["criterion", "sparsity"])[measure].mean()
        for method in self.methods if measure == _PAPERS_MEASURE else ():
            for sparsity, reported in zip(self.sparsities[::-1], method.paper[::-1], strict=False):
                difference = 100 * means[method.label, sparsity] - reported
                cell = table.loc[method.label, sparsity]
                table.loc[method.label, sparsity] = f"{reported:.2f} → {cell} ({difference:+.2f})"
        return table.rename(columns=per_cent)

    def _caption(self, measure: str, metric: str, dense: pd.DataFrame) -> str:
        compared = measure == _PAPERS_MEASURE and any(method.paper for method in self.methods)
        paper = "; the paper's → here (the difference)" if compared else ""
        meaning = compare.MEASURES[measure].format(metric) + (", %" if factor(metric) > 1 else "")
        seeds = ", ".join(map(str, self.scale.seeds))
        return (
            f"{self.scale.settings[self.pair].name}, {meaning}: mean ± standard deviation over seeds {seeds}{paper}; "
            f"dense: {compare.cell(dense[measure], metric)}."
        )

    def _dense(self) -> list[PruneRun]:
        """Return the runs of the unpruned network."""
        return self.scale.prune(self.pair, "magnitude", 0.0)

    def _runs(self) -> Iterator[tuple[Method, float, Sanity, list[PruneRun]]]:
        """Yield one run per seed for each method, sparsity and sanity check; none for iterative pruning."""
        for method in self.methods:
            for sparsity in self.sparsities:
                checked = method.label in self.checked and sparsity == self.sparsities[-2:][0]
                for check in get_args(Sanity)[:1] + (self.checks if checked else ()):
                    runs = self.scale.prune(self.pair, method.by, sparsity, check, **method.how) if method.by else []
                    yield method, sparsity, check, runs


@dataclass(frozen=True)
class Agreement:
    """Concordance of survival between runs of IRP (paper, Table 9, eq. 5)."""

    title: str
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
        columns = ["same initial weights", "different"]
        document.table(pd.DataFrame.from_dict(table, "index", columns=columns).rename_axis("runs of IRP"))


@dataclass(frozen=True)
class Predictions:
    """Survival and its prediction by AutoS before and after the fit (paper, Figures 4 and 5)."""

    title: str
    stem: str
    methods: tuple[Method, ...]
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
    stem: str
    run: IRPRun

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
    """All results of a set of runs, as `autosparse report` shows them."""

    runs: tuple[Job, ...]
    """Runs of any kind, with those that they need."""

    def jobs(self) -> list[Job]:
        return [*self.runs]

    def write(self, document: Document) -> None:
        report.overview(document, [run.folder for run in self.runs])
