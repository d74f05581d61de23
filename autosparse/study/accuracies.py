"""Accuracy after pruning, by method and sparsity."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from autosparse.cluster import Job
from autosparse.jobs import FitRun, PruneRun
from autosparse.jobs.sanity import SANITY
from autosparse.jobs.setting import Setting
from autosparse.study import figures, tables
from autosparse.study.document import LAYERS, Document
from autosparse.study.experiment import Method
from autosparse.study.results import MEASURES, load, load_irp

_PAPERS_MEASURE = "accuracy_best_test"


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
    """

    title: str
    stem: str
    output: Path
    setting: Setting
    methods: tuple[Method, ...]
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]
    checked: tuple[str, ...] = ()

    def jobs(self) -> list[Job]:
        needed: list[Job] = [*self._dense()]
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
        iterative = [run for method in self.methods if isinstance(method.by, tuple) for run in method.by]
        tables.one_recipe(load(*dict.fromkeys(runs)), *[load_irp(run.folder) for run in iterative])
        dense = load(*(run.folder for run in self._dense()))
        for measure, meaning in MEASURES.items():
            if dense[measure].isna().all():
                continue
            paper = measure == _PAPERS_MEASURE and any(method.paper for method in self.methods)
            over = f"mean ± deviation over seeds {', '.join(map(str, self.seeds))}"
            beside = "; the paper's → here (the difference)" if paper else ""
            document.text(f"{self.setting.name}, {meaning}, %: {over}{beside}; dense: {tables.cell(dense[measure])}.")
            document.table(self._beside_paper() if paper else self._frame(measure))
        if iterative:
            document.note("Iterative: its own masks, trained from its own weights; interpolated between two of them.")
        if self.checked:
            document.text(f"Sanity checks at {100 * self._checked_at:g}%: the last epoch's accuracy, %.")
            document.table(self._sanity())
        figure = figures.lines(self._curves(), self.title)
        document.figure(figure, self.stem, "Test accuracy after the last epoch; what falls below the axis is cut off.")
        document.figure(figures.layer_densities(self._pruned(), self.title), f"{self.stem}_layers", LAYERS)

    def _dense(self) -> list[PruneRun]:
        """The unpruned network."""
        return [PruneRun(self.output, self.setting, "magnitude", 0.0, seed) for seed in self.seeds]

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
        """A measure of each seed's run; of each run of IRP, that of its own masks."""
        if isinstance(method.by, tuple):
            return tables.interpolated(load_irp(*(run.folder for run in method.by)), sparsity, measure)
        return load(*(run.folder for run in self._runs(method, sparsity, sanity)))[measure]

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
