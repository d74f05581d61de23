"""Comparison of results: tables of means, masks of iterative pruning by sparsity, concordance of survival."""

import json

import numpy as np
import pandas as pd

from autosparse.errors import UserError
from autosparse.metrics import decimals, factor
from autosparse.store import TripleStore

ITERATIVE = " (iterative)"
"""Suffix of the name of a criterion of IRP."""
MEASURES = {
    "test": "test {} after the last epoch",
    "test_best_validation": "test {} after the epoch best on the validation split",
    "test_best": "best over epochs of the test {} (the paper's figure; the test set chose the epoch)",
}
"""Columns of results that hold a metric, each with its meaning."""
SHORT = {
    "test": "last epoch",
    "test_best_validation": "best by validation",
    "test_best": "best over epochs, the paper's",
}
"""Labels of the measures."""

_NEAR = 0.05  # largest relative difference between the density of a mask of IRP and the density that it stands for


def concordance(a: TripleStore, b: TripleStore) -> float:
    """Return the concordance correlation coefficient of survival / N over all parameters (paper, eq. 5; Lin 1989).

    2 cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))²): 1 for equal scores, 0 for independent ones.
    """
    if a.layout != b.layout:
        raise UserError(f"{a.storage} and {b.storage} are runs of different networks; there is nothing to compare")
    x, y = (store.survival() / store.iterations for store in (a, b))
    covariance = np.cov(x, y, bias=True)
    return float(2 * covariance[0, 1] / (covariance.trace() + (x.mean() - y.mean()) ** 2))


def per_cent(sparsity: float) -> str:
    """Format a sparsity."""
    return f"{100 * sparsity:g}%"


def cell(values: pd.Series, metric: str = "accuracy") -> str:
    """Format mean and standard deviation of a metric, fractions in per cent."""
    values = factor(metric) * values.dropna().astype(float)
    if values.empty:
        return "–"
    places = decimals(metric)
    deviation = f" ± {values.std(ddof=1):.{places}f}" if len(values) > 1 else ""
    return f"{values.mean():.{places}f}{deviation}"


def table(rows: pd.DataFrame, index: str, columns: str, measure: str = "test") -> pd.DataFrame:
    """Return the `cell` of a measure for each value of two columns, in the order of their first appearance."""
    metric, _ = metric_of(rows)
    cells = rows.groupby([index, columns], sort=False)[measure].agg(lambda values: cell(values, metric))
    return cells.unstack(fill_value="–").rename_axis(columns=None)


def accuracy_table(pruned: pd.DataFrame, irp: pd.DataFrame, measure: str = "test") -> pd.DataFrame:
    """Return the `cell` of a measure by criterion and sparsity, with `≈` before values between two masks of IRP.

    The first column is the cost in full training runs, the last one included. The rows must have one recipe.
    """
    one_recipe(pruned, irp)
    cells = table(pruned, "criterion", "sparsity", measure).sort_index(axis=1)
    sparsities = [*cells]
    cells.columns = [*map(per_cent, sparsities)]
    cells.insert(0, "cost", pruned.groupby("criterion")["cost"].mean().map("{:.3g}".format))
    for name, group in irp.groupby("criterion") if len(irp) else ():
        cost = f"up to {group['iteration'].max() + 1}"
        cells.loc[f"{name}{ITERATIVE}"] = [cost, *(_iterative_cell(group, s, measure) for s in sparsities)]
    return cells


def _iterative_cell(irp: pd.DataFrame, sparsity: float, measure: str) -> str:
    """Return the cell of the masks as sparse as that, or else of a value between a sparser and a denser mask."""
    metric, _ = metric_of(irp)
    if len(near := nearest(irp, sparsity)):
        return cell(near[measure], metric)
    between = cell(interpolated(irp, sparsity, measure), metric)
    return between if between == "–" else f"≈ {between}"


def dense(pruned: pd.DataFrame, irp: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the unpruned network: runs at sparsity 0 or, without any, iteration 0 of IRP, once a seed."""
    own = pruned[(pruned["sparsity"] == 0) & (pruned["cost"] == 1)] if len(pruned) else pruned
    return own if len(own) or irp.empty else irp[irp["iteration"] == 0].drop_duplicates(["seed", "order_seed"])


def nearest(irp: pd.DataFrame, sparsity: float) -> pd.DataFrame:
    """Return the mask of each run with the density nearest to a sparsity's, if it is within 5%."""
    distance = (irp["density"] / (1.0 - sparsity) - 1.0).abs()
    best = distance.groupby(irp["folder"]).idxmin()
    return irp.loc[best[distance.loc[best].to_numpy() <= _NEAR]]


def interpolated(irp: pd.DataFrame, sparsity: float, measure: str) -> pd.Series:
    """Return a measure of each run at a sparsity, linear in the logarithm of density between masks.

    NaN for a run whose last mask is denser.
    """
    wanted, values = np.log1p(-sparsity), dict[str, float]()
    for folder, run in irp.groupby("folder"):
        run = run.sort_values("density")
        densities = np.log(run["density"].to_numpy())
        inside = wanted > densities[0] - _NEAR
        values[folder] = float(np.interp(wanted, densities, run[measure].astype(float))) if inside else np.nan
    return pd.Series(values, dtype=float)


def reached(irp: pd.DataFrame, sparsity: float) -> pd.DataFrame:
    """Return one row per run of IRP that reaches a sparsity, with its measures there.

    `cost` is the number of full training runs until the first mask that is as sparse.
    """
    sparse = irp[irp["density"] <= (1.0 - sparsity) * (1.0 + _NEAR)] if len(irp) else irp
    if sparse.empty:
        return sparse
    rows = irp.groupby("folder", as_index=False).nth(0).set_index("folder", drop=False)
    rows = rows.loc[sparse["folder"].unique()].assign(
        cost=1.0 + sparse.groupby("folder")["iteration"].min(), sparsity=sparsity, density=1 - sparsity
    )
    measures = {measure: interpolated(irp, sparsity, measure) for measure in MEASURES if measure in irp}
    return rows.assign(**measures).sort_index().reset_index(drop=True)


def metric_of(*frames: pd.DataFrame) -> tuple[str, str]:
    """Return the metric of the rows and its better direction; raise a UserError if they have several metrics."""
    metrics = {(row.metric, row.better) for frame in frames for row in frame.itertuples()}
    if len(metrics) > 1:
        names = " and ".join(sorted(name for name, _ in metrics))
        raise UserError(f"results of different metrics, {names}, cannot share a table; report them apart")
    return next(iter(metrics), ("accuracy", "higher"))


def metrics_of(*frames: pd.DataFrame) -> list[str]:
    """Return the names of all metrics of the rows, the first metric of their task first."""
    others = [name[5:] for frame in frames for name in frame if name.startswith("test/") and frame[name].notna().any()]
    return list(dict.fromkeys([metric_of(*frames)[0], *others]))


def of_metric(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows with another metric instead of the first, at the same epochs; its direction is not known."""
    values = {measure: frame.get(f"{measure}/{name}", np.nan) for measure in MEASURES}
    return frame.assign(metric=name, better="", **values) if len(frame) else frame


def recipes(*frames: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the recipes of the rows, the most frequent first, each with the options in which they differ.

    These read `, batch_size=32`.
    """
    by_count = pd.concat([frame["recipe"] for frame in frames if len(frame)]).value_counts().index
    options = pd.DataFrame([json.loads(recipe) for recipe in by_count], dtype=object)
    different = [name for name in options if options[name].map(json.dumps).nunique() > 1]
    named = ["".join(f", {name}={row[name]}" for name in different) for _, row in options.iterrows()]
    return list(zip(by_count, named, strict=True))


def one_recipe(*frames: pd.DataFrame) -> None:
    """Raise a UserError that names the options in which the recipes of the rows differ, if they do."""
    first, *others = (named.removeprefix(", ") for _, named in recipes(*frames))
    if others:
        raise UserError(
            f"results of different recipes cannot share a table: {first} and {others[0]}; report them apart"
        )
