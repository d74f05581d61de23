"""What a mask costs and what it brings: methods beside each other at equal cost, and the metric against the cost."""

from dataclasses import dataclass

import pandas as pd

from autosparse.cluster import Job
from autosparse.config import Sanity
from autosparse.jobs import IRPRun, PruneRun
from autosparse.page import Document
from autosparse.study import charts, compare, results
from autosparse.study.parts import Method
from autosparse.study.scale import Scale

_CAPTION = (
    "The test metric after the last epoch against all that was trained for it, in trainings: mean and deviation over "
    "seeds. Variants of one method at several costs are joined."
)


@dataclass(frozen=True, kw_only=True)
class AtCost:
    """A metric by method and sparsity beside the cost in trainings, as a table and as a figure."""

    title: str
    """The heading of the table."""
    stem: str
    """The start of its figure's file name."""
    scale: Scale
    """The seeds, and where the runs lie."""
    pair: str
    """What is pruned and trained, a key of the scale's settings."""
    methods: tuple[Method, ...]
    """The rows."""
    sparsities: tuple[float, ...]
    """The columns."""
    checked: tuple[str, ...] = ()
    """The labels of the rows whose sanity checks are run, at the last sparsity but one."""
    checks: tuple[Sanity, ...] = ("shuffled",)
    """Which."""

    def jobs(self) -> list[Job]:
        needed: list[Job] = [*self._dense()]
        for method in self.methods:
            needed += method.jobs()
            needed += [run for sparsity in self.sparsities for run in self._runs(method, sparsity)]
            if method.label in self.checked:
                needed += [run for check in self.checks for run in self._runs(method, self._checked_at, check)]
        return needed

    def write(self, document: Document) -> None:
        rows = self.rows()
        compare.one_recipe(rows)
        metric, better = compare.metric_of(rows)
        document.heading(self.title, 3)
        dense = results.load(*(run.folder for run in self._dense()))
        seeds = ", ".join(map(str, self.scale.seeds))
        panels = {f"{100 * at:g}% sparsity": rows[rows["at"] == at] for at in self.sparsities}
        if rows["family"].any():
            document.chart(charts.against_cost(panels), self.stem, f"{_CAPTION} A panel a sparsity.")
        caption = (
            f"Test {metric} after the last epoch, {better} is better; mean ± deviation over seeds {seeds}; dense: "
            f"{compare.cell(dense['test'], metric)}. Cost: trainings in all, the last one included. Bold: better than "
            "all others of its cost by two deviations, the larger of both."
        )
        document.table(self._table(rows, metric, better), caption)
        if self.checked:
            document.table(self._sanity(metric), f"Sanity checks at {100 * self._checked_at:g}%.")

    def _dense(self) -> list[PruneRun]:
        """The unpruned network."""
        return self.scale.prune(self.pair, "magnitude", 0.0)

    @property
    def _checked_at(self) -> float:
        return self.sparsities[-2:][0]

    def _runs(self, method: Method, sparsity: float, sanity: Sanity = "none") -> list[PruneRun]:
        """A run a seed; none for iterative pruning."""
        return self.scale.prune(self.pair, method.by, sparsity, sanity, **method.how) if method.by else []

    def rows(self) -> pd.DataFrame:
        """A row a method, sparsity and seed: `method`, `family`, `at`, `cost`, `test` and what says how it was made."""
        found = []
        for method in self.methods:
            for sparsity in self.sparsities:
                if method.by:
                    rows = results.load(*(run.folder for run in self._runs(method, sparsity)))
                else:
                    rows = compare.reached(results.load_irp(*(run.folder for run in method.sources)), sparsity)
                found.append(rows.assign(method=method.label, family=method.family, at=sparsity))
        return pd.concat(found)

    def _table(self, rows: pd.DataFrame, metric: str, better: str) -> pd.DataFrame:
        table = {}
        cost = rows.groupby("method")["cost"].mean()
        for method in self.methods:
            cells = [f"{cost[method.label]:.1f}" if method.by else "–"]
            for sparsity in self.sparsities:
                at = rows[rows["at"] == sparsity]
                values = {name: group["test"] for name, group in at.groupby("method")}
                said = compare.cell(values[method.label], metric)
                peers = [name for name in values if name != method.label and abs(cost[name] - cost[method.label]) < 0.1]
                if peers and all(_beats(values[method.label], values[name], better) for name in peers):
                    said = f"**{said}**"
                if not method.by:
                    said += f" ({at[at['method'] == method.label]['cost'].mean():.0f})"
                cells.append(said)
            table[method.label] = cells
        names = ["cost", *(f"{100 * sparsity:g}%" for sparsity in self.sparsities)]
        return pd.DataFrame(table, index=names).T.rename_axis("method")

    def _sanity(self, metric: str) -> pd.DataFrame:
        kinds: tuple[Sanity, ...] = ("none", *self.checks)
        table = {
            method.label: [
                compare.cell(
                    results.load(*(r.folder for r in self._runs(method, self._checked_at, kind)))["test"], metric
                )
                for kind in kinds
            ]
            for method in self.methods
            if method.label in self.checked
        }
        names = ["as it is" if kind == "none" else kind for kind in kinds]
        return pd.DataFrame(table, index=names).T.rename_axis("method")


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """One picture of several such tables, at one sparsity."""

    title: str
    """What stands above it."""
    stem: str
    """The file's name."""
    tables: tuple[AtCost, ...]
    """The panels."""
    sparsity: float
    """The sparsity."""

    def jobs(self) -> list[Job]:
        return [job for table in self.tables for job in table.jobs()]

    def write(self, document: Document) -> None:
        panels = {}
        for table in self.tables:
            rows = table.rows()
            panels[table.scale.settings[table.pair].name.replace("_", " on ")] = rows[rows["at"] == self.sparsity]
        document.heading(self.title, 3)
        document.chart(charts.against_cost(panels), self.stem, _CAPTION)


def iterative(scale: Scale, pair: str) -> tuple[IRPRun, ...]:
    """Iterative pruning by magnitude of the seeds that are pruned: the ceiling."""
    return tuple(scale.irp(pair, "magnitude", seed=seed) for seed in scale.seeds)


def _beats(one: pd.Series, other: pd.Series, better: str) -> bool:
    """Whether the mean is better by two deviations, the larger of both."""
    ahead = one.mean() - other.mean() if better == "higher" else other.mean() - one.mean()
    return bool(ahead > 2 * max(one.std(ddof=1), other.std(ddof=1)))
