"""Results compared: tables of mean and deviation, masks of IRP that stand for a sparsity, concordance of survival."""

import json

import numpy as np
import pandas as pd

from autosparse.errors import UserError
from autosparse.metrics import factor
from autosparse.store import TripleStore

ITERATIVE = " (iterative)"
"""What follows the name of a criterion of IRP."""
NEAR = 0.05  # relative: a mask of IRP stands for a sparsity if its density is that close
MEASURES = {
    "test": "test {} after the last epoch",
    "test_best_validation": "test {} after the epoch best on the validation split",
    "test_best": "best over epochs of the test {} (the paper's figure; the test set chose the epoch)",
}

SHORT = {
    "test": "last epoch",
    "test_best_validation": "best by validation",
    "test_best": "best over epochs, the paper's",
}
"""The measures in a word or two."""


def concordance(a: TripleStore, b: TripleStore) -> float:
    """Concordance correlation coefficient of survival / N, parameter by parameter (paper, eq. 5; Lin 1989).

    2 cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))²): 1 for equal scores, 0 for independent ones. Streams over the
    stores; the sums are of integers, so exact.

    Raises:
        UserError: the runs are of different networks, or every parameter has one and the same survival in both.
    """
    if a.layout != b.layout:
        raise UserError(f"{a.storage} and {b.storage} are runs of different networks; there is nothing to compare")
    sums = np.zeros(5, dtype=object)  # of x, y, x², y², xy; Python's integers do not overflow
    for span, columns in a.scan("survival"):
        x, y = columns["survival"].astype(np.int64), b.survival(span).astype(np.int64)
        sums += np.array([int(values.sum()) for values in (x, y, x * x, y * y, x * y)], dtype=object)
    n, (x1, y1, x2, y2, xy) = len(a), sums
    p, q = a.iterations, b.iterations
    covariance = (n * xy - x1 * y1) / (p * q)
    spread = (n * x2 - x1 * x1) / p**2 + (n * y2 - y1 * y1) / q**2 + (x1 / p - y1 / q) ** 2
    if not spread:
        raise UserError(f"every parameter has the same survival in {a.storage} and {b.storage}")
    return float(2 * covariance / spread)


def accuracy_table(pruned: pd.DataFrame, irp: pd.DataFrame, measure: str = "test") -> pd.DataFrame:
    """A metric of one network on one data set, accuracies in per cent.

    Args:
        pruned: rows of `load`.
        irp: rows of `load_irp`, which give the first rows; may be empty.
        measure: the column to show, see `MEASURES`.

    Returns:
        Strings `mean ± deviation` (of the sample, over seeds), `≈` before what lies between masks of IRP, none of
        which is as sparse; index: criteria, iterative ones and then that of the best last epoch first; columns: the
        cost in trainings, the last one included, and sparsities.

    Raises:
        UserError: the rows were trained by different recipes (names what differs).
    """
    one_recipe(pruned, irp)
    metric, better = metric_of(pruned, irp)
    sparsities = sorted(pruned["sparsity"].unique())
    rows, order = {}, {}
    for name, group in pruned.groupby("criterion"):
        at = [group[group["sparsity"] == s] for s in sparsities]
        rows[name] = [f"{group['cost'].mean():.3g}", *(cell(runs[measure], metric) for runs in at)]
        order[name] = np.nanmean([runs["test"].mean() for runs in at])
    names = sorted(rows, key=order.__getitem__, reverse=better == "higher")
    for name, group in irp.groupby("criterion") if len(irp) else ():
        rows[f"{name}{ITERATIVE}"] = [
            f"up to {group['iteration'].max() + 1}",
            *(_iterative(group, s, measure) for s in sparsities),
        ]
        names.insert(0, f"{name}{ITERATIVE}")
    columns = ["cost", *(f"{100 * s:g}%" for s in sparsities)]
    table = pd.DataFrame([rows[name] for name in names], index=names, columns=columns)
    return table.rename_axis(index="criterion")


def _iterative(irp: pd.DataFrame, sparsity: float, measure: str) -> str:
    """The cell of masks of IRP at a sparsity: of those as sparse, or else between the sparser and the denser."""
    metric, _ = metric_of(irp)
    if len(near := nearest(irp, sparsity)):
        return cell(near[measure], metric)
    between = cell(interpolated(irp, sparsity, measure), metric)
    return between if between == "–" else f"≈ {between}"


def iterations_table(irp: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of every mask of IRP in per cent, over seeds: a row a sparsity, a column a criterion.

    Raises:
        UserError: the rows were trained by different recipes.
    """
    one_recipe(irp)
    sparsity = irp["sparsity"].map(lambda value: f"{100 * value:.2f}%")
    metric, _ = metric_of(irp)
    cells = irp.groupby([sparsity, "criterion"], sort=False)["test"].agg(lambda values: cell(values, metric))
    return cells.unstack(fill_value="–")


def dense(pruned: pd.DataFrame, irp: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the unpruned network: iteration 0 of IRP or, without IRP, runs at sparsity 0."""
    return irp[irp["iteration"] == 0] if len(irp) else pruned[pruned["sparsity"] == 0]


def nearest(irp: pd.DataFrame, sparsity: float) -> pd.DataFrame:
    """The mask of each run whose density is nearest to a sparsity's, where it is within 5%."""
    distance = (irp["density"] / (1.0 - sparsity) - 1.0).abs()
    best = distance.groupby(irp["folder"]).idxmin()
    return irp.loc[best[distance.loc[best].to_numpy() <= NEAR]]


def interpolated(irp: pd.DataFrame, sparsity: float, measure: str) -> pd.Series:
    """A measure of each run at a sparsity: between masks linear in the logarithm of density, NaN beyond the last."""
    wanted, found = np.log1p(-sparsity), dict[str, float]()
    for folder, run in irp.groupby("folder"):
        run = run.sort_values("density")
        places = np.log(run["density"].to_numpy())
        within = wanted > places[0] - NEAR
        found[folder] = float(np.interp(wanted, places, run[measure].astype(float))) if within else np.nan
    return pd.Series(found, dtype=float)


def cell(values: pd.Series, metric: str = "accuracy") -> str:
    """Mean and deviation of a metric, shares in per cent."""
    values = factor(metric) * values.dropna().astype(float)
    if values.empty:
        return "–"
    places = 2 if factor(metric) > 1 else 4
    deviation = f" ± {values.std(ddof=1):.{places}f}" if len(values) > 1 else ""
    return f"{values.mean():.{places}f}{deviation}"


def metric_of(*frames: pd.DataFrame) -> tuple[str, str]:
    """What the rows were measured by, and which way that is better.

    Raises:
        UserError: by several.
    """
    found = {(row.metric, row.better) for frame in frames for row in frame.itertuples()}
    if len(found) > 1:
        names = " and ".join(sorted(name for name, _ in found))
        raise UserError(f"results of different metrics, {names}, cannot share a table; report them apart")
    return next(iter(found), ("accuracy", "higher"))


def metrics_of(*frames: pd.DataFrame) -> list[str]:
    """Return the names of all metrics of the rows, the first metric of their task first.

    Raises:
        UserError: rows differ in their first metric.
    """
    others = [name[5:] for frame in frames for name in frame if name.startswith("test/") and frame[name].notna().any()]
    return list(dict.fromkeys([metric_of(*frames)[0], *others]))


def of_metric(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows with another metric instead of the first, at the same epochs; its direction is not known."""
    values = {measure: frame.get(f"{measure}/{name}", np.nan) for measure in MEASURES}
    return frame.assign(metric=name, better="", **values) if len(frame) else frame


def recipes(*frames: pd.DataFrame) -> list[tuple[str, str]]:
    """The recipes of the rows, the most frequent first, and what of each is not as in the first: `, batch_size=32`."""
    found = pd.concat([frame["recipe"] for frame in frames if len(frame)]).value_counts(sort=True).index
    first, *others = (json.loads(recipe) for recipe in found)
    says = [""]
    for other in others:
        differ = [key for key in {**first, **other} if first.get(key) != other.get(key)]
        says.append("".join(f", {key}={other.get(key)}" for key in differ))
    return list(zip(found, says, strict=True))


def one_recipe(*frames: pd.DataFrame) -> None:
    """Refuse to compare results of different recipes.

    Raises:
        UserError: names the first setting that differs and two folders.
    """
    rows = [row for frame in frames for row in frame.itertuples()]
    for row in rows[1:]:
        if row.recipe != rows[0].recipe:
            a, b = json.loads(rows[0].recipe), json.loads(row.recipe)
            key = next(key for key in {**a, **b} if a.get(key) != b.get(key))  # one may be of an older version
            raise UserError(
                f"results of different recipes cannot share a table: {key} is {a.get(key)} in {rows[0].folder} "
                f"and {b.get(key)} in {row.folder}; report them apart"
            )


def reached(irp: pd.DataFrame, sparsity: float) -> pd.DataFrame:
    """Of each run of IRP the metric at a sparsity, and as its cost the trainings until it has a mask as sparse as that.

    Args:
        irp: rows of `load_irp`.
        sparsity: a share; a run that does not get there has no row.
    """
    values = interpolated(irp, sparsity, "test")
    rows = []
    for folder, run in irp.groupby("folder"):
        there = run[run["density"] <= (1.0 - sparsity) * (1.0 + NEAR)]["iteration"]
        if len(there):
            rows.append(
                {**run.iloc[0].to_dict(), "test": values[folder], "cost": 1.0 + there.min(), "density": 1 - sparsity}
            )
    return pd.DataFrame(rows)
