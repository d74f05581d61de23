"""Results as tables: a row a criterion, a column a sparsity, mean and deviation over seeds."""

import json

import numpy as np
import pandas as pd

from autosparse.errors import UserError

_NEAR = 0.05  # relative: a mask of IRP stands for a sparsity if its density is that close


def accuracy_table(pruned: pd.DataFrame, irp: pd.DataFrame, measure: str = "accuracy") -> pd.DataFrame:
    """Accuracies in per cent of one network on one data set.

    Args:
        pruned: rows of `results.load`.
        irp: rows of `results.load_irp`, which give the ceiling and the dense network; may be empty.
        measure: the column to show, see `results.MEASURES`.

    Returns:
        Strings `mean ± deviation` (of the sample, over seeds); index: criteria, that of the best last-epoch accuracy
        first; columns: sparsities.

    Raises:
        UserError: the rows were trained by different recipes (names what differs).
    """
    one_recipe(pruned, irp)
    sparsities = sorted(pruned["sparsity"].unique())
    rows, order = {}, {}
    for name, group in pruned.groupby("criterion"):
        at = [group[group["sparsity"] == s] for s in sparsities]
        rows[name] = [cell(runs[measure]) for runs in at]
        order[name] = np.nanmean([runs["accuracy"].mean() for runs in at])
    names = sorted(rows, key=lambda name: -order[name])
    for name, group in irp.groupby("criterion") if len(irp) else ():
        rows[f"{name} (iterative, the ceiling)"] = [cell(nearest(group, s)[measure]) for s in sparsities]
        names.insert(0, f"{name} (iterative, the ceiling)")
    table = pd.DataFrame([rows[name] for name in names], index=names, columns=[f"{100 * s:g}%" for s in sparsities])
    return table.rename_axis(index="criterion")


def iterations_table(irp: pd.DataFrame, measure: str = "accuracy") -> pd.DataFrame:
    """Accuracy of every mask of IRP in per cent, over seeds: a row a sparsity, a column a criterion.

    Raises:
        UserError: the rows were trained by different recipes.
    """
    one_recipe(irp)
    sparsity = irp["sparsity"].map(lambda value: f"{100 * value:.2f}%")
    cells = irp.groupby([sparsity, "criterion"], sort=False)[measure].agg(cell)
    return cells.unstack(fill_value="–")


def dense_accuracy(irp: pd.DataFrame, measure: str = "accuracy") -> str:
    """The accuracy of the unpruned network, off iteration 0 of IRP."""
    return cell(irp[irp["iteration"] == 0][measure]) if len(irp) else "–"


def nearest(irp: pd.DataFrame, sparsity: float) -> pd.DataFrame:
    """Of each run, the mask whose density is nearest to a sparsity's, where it is within 5%."""
    distance = (irp["density"] / (1.0 - sparsity) - 1.0).abs()
    best = distance.groupby(irp["folder"]).idxmin()
    return irp.loc[best[distance.loc[best].to_numpy() <= _NEAR]]


def interpolated(irp: pd.DataFrame, sparsity: float, measure: str) -> pd.Series:
    """A measure of each run at a sparsity: between masks linear in the logarithm of density, NaN beyond the last."""
    wanted, found = np.log1p(-sparsity), dict[str, float]()
    for folder, run in irp.groupby("folder"):
        run = run.sort_values("density")
        places = np.log(run["density"].to_numpy())
        reached = wanted > places[0] - _NEAR
        found[folder] = float(np.interp(wanted, places, run[measure].astype(float))) if reached else np.nan
    return pd.Series(found, dtype=float)


def cell(values: pd.Series) -> str:
    """Mean and deviation of shares, in per cent."""
    values = 100 * values.dropna().astype(float)
    if values.empty:
        return "–"
    deviation = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{deviation}"


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


def markdown(table: pd.DataFrame) -> str:
    """A data frame as a Markdown table, its index as the first column."""
    header = [str(table.index.name or ""), *map(str, table.columns)]
    rows = [[str(index), *map(str, row)] for index, row in zip(table.index, table.to_numpy().tolist(), strict=True)]
    lines = [header, ["---", *["---:"] * len(table.columns)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
