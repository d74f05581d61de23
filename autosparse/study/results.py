"""Results: gathered from the folders of runs as data frames, and compared in tables of mean and deviation."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autosparse.autos.autos import CARD
from autosparse.cluster.provenance import read_config
from autosparse.config import IRPConfig, PruneConfig, defaults
from autosparse.errors import UserError
from autosparse.files import read_json, walk
from autosparse.metrics import factor
from autosparse.store import TripleStore
from autosparse.store.beside import HISTORY, read_history
from autosparse.store.schema import MARKER
from autosparse.training import Recipe

# what a run's configuration says beside task and training
_VARIED = {*defaults(IRPConfig), *defaults(PruneConfig), "kind", "options", "autos", "criterion_code", "grad_batches"}
# of that, what has a column of its own, or decides nothing
_TOLD = {"kind", "options", "criterion", "sparsity", "sanity", "seed", "order_seed"}
NEAR = 0.05  # relative: a mask of IRP stands for a sparsity if its density is that close
_RESULT = {"prune": "result.json", "autos": CARD, "irp": f"triples.zarr/{MARKER}", "report": "index.html"}
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


def find(paths: Iterable[str | Path], kind: str) -> list[Path]:
    """Folders of complete runs of one kind (`irp`, `autos` or `prune`) at or below the paths, sorted."""
    return [folder for folder, found in _configured(paths) if found == kind and (folder / _RESULT[kind]).is_file()]


def find_unfinished(paths: Iterable[str | Path]) -> list[Path]:
    """Folders of runs that have not ended."""
    return [folder for folder, kind in _configured(paths) if kind and not (folder / _RESULT[kind]).is_file()]


def find_damaged(paths: Iterable[str | Path]) -> list[Path]:
    """Folders of runs whose configuration cannot be read."""
    return [folder for folder, kind in _configured(paths) if kind is None]


def load(*paths: str | Path, damaged: list[str] | None = None) -> pd.DataFrame:
    """One row for each network pruned at initialization and trained, below the given folders.

    Columns: `criterion`, `sparsity`, `seed`, `network`, `dataset`, `same_initialization`, the accuracies of `MEASURES`,
    `cost` in trainings, `density`, `kept`, `parameters`, `empty_layers`, `layer_densities`, `recipe` (JSON), seconds,
    `folder`. Where runs of one criterion differ in other settings, `criterion` says in which. Of a run and its copies
    one counts.

    Args:
        paths: folders of runs, or folders that hold them.
        damaged: gets a line for each run that cannot be read or is a copy, which is left out.

    Raises:
        UserError: a result that cannot be read, where `damaged` is not given.
    """
    found = _told_apart(_read(find(paths, "prune"), lambda folder: [_pruned(folder)], damaged), damaged)
    if len(found):
        found["criterion"] += found["sanity"].map(lambda check: "" if check == "none" else f", {check}")
    return found


def load_irp(*paths: str | Path, damaged: list[str] | None = None) -> pd.DataFrame:
    """One row for each mask of each run of IRP: the accuracy of the network trained with it from its own weights.

    Columns as in `load`, with `iteration`, and `criterion` as `irp-<criterion>`; arguments and errors, too.
    """
    return _told_apart(_read(find(paths, "irp"), _iterations, damaged), damaged)


def histories(pruned: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """The epochs of each row of `load`, by its folder."""
    return {folder: read_json(Path(folder) / "result.json")["history"] for folder in pruned["folder"]}


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
        irp: rows of `load_irp`, which give the ceiling and the dense network; may be empty.
        measure: the column to show, see `MEASURES`.

    Returns:
        Strings `mean ± deviation` (of the sample, over seeds); index: criteria, that of the best last
        epoch first; columns: the cost in trainings, the last one included, and sparsities.

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
        cells = [cell(nearest(group, s)[measure], metric) for s in sparsities]
        rows[f"{name} (iterative, the ceiling)"] = [f"up to {group['iteration'].max() + 1}", *cells]
        names.insert(0, f"{name} (iterative, the ceiling)")
    columns = ["cost", *(f"{100 * s:g}%" for s in sparsities)]
    table = pd.DataFrame([rows[name] for name in names], index=names, columns=columns)
    return table.rename_axis(index="criterion")


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


def dense_accuracy(irp: pd.DataFrame, measure: str = "test") -> str:
    """The accuracy of the unpruned network, off iteration 0 of IRP."""
    return cell(irp[irp["iteration"] == 0][measure], metric_of(irp)[0]) if len(irp) else "–"


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
        reached = wanted > places[0] - NEAR
        found[folder] = float(np.interp(wanted, places, run[measure].astype(float))) if reached else np.nan
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


def _read(
    folders: list[Path], rows: Callable[[Path], list[dict[str, Any]]], damaged: list[str] | None
) -> list[dict[str, Any]]:
    """The rows of all runs; see `load`."""
    found = []
    for folder in folders:
        try:
            found += rows(folder)
        except UserError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
    return found


def _iterations(folder: Path) -> list[dict[str, Any]]:
    config, store = read_config(folder), TripleStore.open(folder)
    history = read_history(folder, store.beside)
    if len(history) != store.iterations + 1:
        raise UserError(f"{folder / HISTORY} is not whole; the command of the run makes it again")
    common = {key: config[key] for key in ("network", "dataset", "seed", "order_seed")}
    common |= {"criterion": f"irp-{config['criterion']}", "recipe": _protocol(config), "settings": _settings(config)}
    return [{**common, "sparsity": 1.0 - mask["density"], "folder": str(folder), **mask} for mask in history]


def _pruned(folder: Path) -> dict[str, Any]:
    result, config = read_json(folder / "result.json"), read_config(folder)
    try:
        seconds = result.pop("seconds")
        for key in ("history", "versions", "kind"):
            result.pop(key)
        label = f"{result['criterion']} (same init)" if result["same_initialization"] else result["criterion"]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'result.json'} is damaged; run the same autosparse prune again") from error
    return {
        **result,
        "criterion": label,
        "recipe": _protocol(config),
        "settings": _settings(config),
        **{f"seconds_{key}": value for key, value in seconds.items()},
        "folder": str(folder),
    }


def _protocol(config: dict[str, Any]) -> str:
    """All that must be the same within a table: the recipe, the task and its fields; not the criterion and the seed.

    A run from before an option had its default.
    """
    task = {key: value for key, value in config.items() if key not in _VARIED}
    return json.dumps({**task, **defaults(Recipe), **config["recipe"], "recipe": None}, sort_keys=True)


def _settings(config: dict[str, Any]) -> str:
    """What of a run neither the table nor the row says, as JSON."""
    return json.dumps({key: value for key, value in config.items() if key in _VARIED - _TOLD}, sort_keys=True)


def _told_apart(rows: list[dict[str, Any]], damaged: list[str] | None) -> pd.DataFrame:
    """The rows, without those of copies, with criteria that say in what else their settings differ."""
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    who = frame.columns.intersection(["network", "dataset", "criterion", "seed", "order_seed", "sparsity", "sanity"])
    key = [*who, "recipe", "settings", *frame.columns.intersection(["iteration"])]
    copies = frame.duplicated(key)
    if damaged is not None:
        first = frame.groupby(key, dropna=False)["folder"].transform("first")
        damaged += dict.fromkeys(frame["folder"][copies] + " is a copy of the run in " + first[copies])
    frame = frame[~copies].reset_index(drop=True)
    for _, group in frame.groupby(["network", "dataset", "criterion"]):
        found = group["settings"].map(json.loads)
        names = sorted({name for settings in found for name in settings})
        differ = [name for name in names if len({json.dumps(settings.get(name)) for settings in found}) > 1]
        says = found.map(lambda settings, differ=differ: "".join(f", {n}={settings.get(n)}" for n in differ))
        frame.loc[group.index, "criterion"] += says
    return frame.drop(columns="settings")


def _configured(paths: Iterable[str | Path]) -> list[tuple[Path, str | None]]:
    """The folders of runs and their kinds; None where the configuration cannot be read."""
    found = dict[Path, str | None]()
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"no runs at {path}")
        for folder, _, files in walk(path):
            if "config.yaml" not in files:
                continue
            try:
                kind = read_config(folder).get("kind")
            except UserError:
                found[folder.resolve()] = None
                continue
            if kind in _RESULT:
                found[folder.resolve()] = kind
    return sorted(found.items())
