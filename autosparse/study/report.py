"""The report of a set of runs: results by network and data, fitted criteria, and the state of every run."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from autosparse.autos import AutoS, LookupTable
from autosparse.autos.autos import CARD
from autosparse.autos.features import STORED
from autosparse.cluster import status
from autosparse.cluster.progress import say
from autosparse.config import Sanity
from autosparse.errors import UserError
from autosparse.files import read_json
from autosparse.metrics import factor, label
from autosparse.page import Document, number_series
from autosparse.store import TripleStore
from autosparse.study import charts, compare, learned, results

CURVES = "The test metric against sparsity, mean and standard deviation over seeds; the axis cuts off distant points."
LAYERS = "Fraction of each layer's weights that is kept, from the input to the output, mean over seeds."
CHECKS = "Sanity checks: the mask as it is, and after its indices within layers, or the weights, have changed."
AS_IT_IS = "as it is"
"""Name of a mask without a sanity check."""

_COST = "The test metric after the last epoch against all that was trained for it; better is higher up."
_TRAININGS = "Every training run as a line."
_MAP = "The score that AutoS gives a parameter, by its first two features in root mean squares of its network."
_CHECK_ORDER = [AS_IT_IS, *get_args(Sanity)[1:]]
_TRUTH = (
    "Survival of parameters drawn at random, 20,000 at most: as it was, and as AutoS predicts it from theta and grad. "
    "Lines are means, bands are where 80% lie."
)


def overview(document: Document, folders: Sequence[Path], live: bool = False) -> None:
    """Add the results of a set of runs by network and data set, then by AutoS, and the table of runs.

    Args:
        document: document to add to.
        folders: folders of runs, or folders that hold them.
        live: put the table of runs first, and accept that no run is complete. Default: False.

    Raises:
        UserError: no run of pruning or IRP is complete, and `live` is False.
    """
    damaged = [f"{folder}/config.yaml is damaged, or missing" for folder in results.find_damaged(folders)]
    pruned, irp = results.load(*folders, damaged=damaged), results.load_irp(*folders, damaged=damaged)
    nothing = pruned.empty and irp.empty
    if nothing and not live:
        raise UserError("; ".join(damaged) or _nothing(folders))
    if live:
        add_runs(document, folders, pruned, irp)
    if not nothing:
        document.text(_counts(folders, pruned, irp))
        document.rows(pruned, irp)
    for network, dataset in sorted(
        {(row.network, row.dataset) for frame in (pruned, irp) for row in frame.itertuples()}
    ):
        frames = _of(pruned, network, dataset), _of(irp, network, dataset)
        for number, (recipe, difference) in enumerate(compare.recipes(*frames)):
            pruned_alike, irp_alike = (frame[frame["recipe"] == recipe] if len(frame) else frame for frame in frames)
            stem = f"{network}_{dataset}" + (f"_{number}" if number else "")
            _setting(document, pruned_alike, irp_alike, f"{network} on {dataset}{difference}", stem)
    for folder in results.find(folders, "autos"):
        try:
            _autos(document, folder, [Path(run) for run in irp["folder"].unique()] if len(irp) else [])
        except UserError as error:
            damaged.append(str(error))
    if not live:
        add_runs(document, folders, pruned, irp)
    if damaged:
        document.heading("Left out")
        for line in dict.fromkeys(damaged):
            document.text(line)
            say(f"left out: {line}")


def summary(folders: Iterable[Path]) -> str:
    """Return the tables of a set of runs after the last epoch for a terminal, one per network and data set."""
    pruned, irp = results.load(*folders), results.load_irp(*folders)
    pruned = pruned[pruned["sanity"] == "none"] if len(pruned) else pruned
    texts = list[str]()
    for network, dataset in sorted({(row.network, row.dataset) for row in pruned.itertuples()}):
        caption, table = _table(_of(pruned, network, dataset), _of(irp, network, dataset), "test")
        texts.append(f"{network} on {dataset}. {caption}\n\n{table.to_string()}\n")
    return "\n".join(texts)


def add_runs(document: Document, folders: Sequence[Path], pruned: pd.DataFrame, irp: pd.DataFrame) -> None:
    """Add the table of runs with the state of each, unfinished runs first.

    Args:
        document: document to add to.
        folders: folders of runs, or folders that hold them.
        pruned: rows of `results.load`.
        irp: rows of `results.load_irp`; the last mask of each run is shown.
    """
    masks = irp.groupby("folder", sort=False).tail(1) if len(irp) else irp
    cells = {Path(row["folder"]): _cells("irp", row | {"cost": row["iteration"] + 1}) for row in _records(masks)}
    for folder in results.find(folders, "autos"):
        with suppress(UserError):  # the caller names damaged fits
            fit = read_json(folder / CARD)["card"]["fit"]
            criterion = f"{fit['backbone']} of {', '.join(fit['features'])}"
            cells[folder] = {"kind": "autos", "criterion": criterion, "seed": fit["seed"]}
    cells |= {Path(row["folder"]): _cells("prune", row) for row in _records(pruned)}
    runs = list[Path]()
    for folder in folders:
        with suppress(UserError):  # no runs there
            runs += status.find([folder])
    reports = {*results.find(folders, "report", complete=False)}
    runs = [folder for folder in dict.fromkeys(run.resolve() for run in runs) if folder not in reports]
    states = dict(zip(runs, status.rows(runs), strict=True))
    places = {folder: place for place, folder in enumerate(cells)}
    rows, names = [], []
    for folder in sorted(runs, key=lambda run: places.get(run, -1)):
        row, shown = states[folder], cells.get(folder, {})
        names.append(folder.name.removeprefix(f"{shown.get('network')}_{shown.get('data')}_"))
        rows.append({name: row[name] or None for name in ("state", "done", "left", "why")} | shown)
    counts = pd.Series([row["state"] for row in states.values()], dtype=str).value_counts()
    document.heading("Runs")
    caption = ", ".join(f"{count} {state}" for state, count in counts.items())
    document.runs(pd.DataFrame(rows, index=pd.Index(names, name="run")), caption)


def add_switch(document: Document, metric: str, measures: Sequence[str]) -> None:
    """Add the choice of a measure."""
    document.switch(f"Test {metric}", {measure: compare.SHORT[measure] for measure in measures})


def add_trainings(document: Document, pruned: pd.DataFrame, stem: str, codes: charts.Codes = None) -> None:
    """Add the curves of all training runs."""
    document.switch("Training curves", charts.CURVES, name="curve")
    chart = charts.training_chart(pruned, results.histories(pruned), codes)
    document.chart(chart, f"{stem}_trainings", _TRAININGS)


def _records(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    return frame.to_dict("records")


def _cells(kind: str, row: dict[Any, Any]) -> dict[str, Any]:
    """Return the cells of a run that has pruned a network."""
    times = factor(row["metric"])
    measures = {"last epoch": "test", "best by validation": "test_best_validation", "best epoch": "test_best"}
    return {
        "kind": kind,
        "network": row["network"],
        "data": row["dataset"],
        "criterion": row["criterion"],
        "sparsity, %": 100.0 * row["sparsity"],
        "seed": row["seed"],
        "cost": float(row["cost"]),
        "metric": row["metric"],
        **{name: None if row[key] is None else times * row[key] for name, key in measures.items()},
    }


def _nothing(folders: Sequence[Path]) -> str:
    where = " ".join(map(str, folders))
    if unfinished := results.find_unfinished(folders):
        return f"{len(unfinished)} runs in {where}, none complete; autosparse runs status {where} shows their states"
    return f"nothing to report in {where}; run autosparse irp and autosparse prune first"


def _setting(document: Document, pruned: pd.DataFrame, irp: pd.DataFrame, title: str, stem: str) -> None:
    """Add the results of one recipe for one network on one data set; those by metric follow the switch `metric`."""
    document.heading(title)
    unchecked = pruned[pruned["sanity"] == "none"] if len(pruned) else pruned
    codes = _codes(unchecked, irp)
    first, *others = compare.metrics_of(pruned, irp)
    document.switch("Metric", {name: name for name in (first, *others)}, "metric")

    def add(write: Callable[..., None], *frames: pd.DataFrame) -> None:
        parts = {first: partial(write, document, *frames, stem, codes)}
        for number, name in enumerate(others, 2):
            swapped = [compare.of_metric(frame, name) for frame in frames]
            parts[name] = partial(write, document, *swapped, f"{stem}_metric-{number}", codes)
        document.choice(parts, "metric")

    add(_results, unchecked, irp)
    if len(unchecked):
        _pruned(document, unchecked, irp, stem, codes)
    if len(unchecked) < len(pruned):
        document.heading("Sanity checks", 3)
        add(_sanity, pruned)


def _codes(pruned: pd.DataFrame, irp: pd.DataFrame) -> dict[str, int]:
    """Number the series: iterative pruning first, then by the first metric after the last epoch, the best first."""
    _, better = compare.metric_of(pruned, irp)
    means = _points(pruned, irp, ["test"]).groupby("series")["mean"].mean()
    best_first = means.sort_values(ascending=better == "lower").index
    return number_series(sorted(best_first, key=lambda name: not name.endswith(compare.ITERATIVE)))


def _results(document: Document, pruned: pd.DataFrame, irp: pd.DataFrame, stem: str, codes: dict[str, int]) -> None:
    """Add a metric against sparsity and its tables."""
    metric, better = compare.metric_of(pruned, irp)
    frames = [frame for frame in (pruned, irp) if len(frame)]
    measures = [measure for measure in compare.MEASURES if any(frame[measure].notna().any() for frame in frames)]
    dense = compare.dense(pruned, irp)
    levels = {name: factor(metric) * dense[name].astype(float).mean() for name in measures} if len(dense) else {}
    add_switch(document, metric, measures)
    points = _points(pruned, irp, measures)
    document.chart(charts.sparsity_chart(points, metric, better, levels, codes), f"{stem}_accuracy", CURVES)
    if pruned.empty:
        document.table(compare.iterations_table(irp), f"Test {label(metric)}, of every mask after the last epoch.")
    else:
        tables = {name: _table(pruned, irp, name) for name in measures}
        order = [name for name in codes if name in next(iter(tables.values()))[1].index]
        document.tables({name: (caption, table.loc[order]) for name, (caption, table) in tables.items()})


def _pruned(document: Document, pruned: pd.DataFrame, irp: pd.DataFrame, stem: str, codes: dict[str, int]) -> None:
    """Add the cost, the densities of layers and the training curves."""
    empty = pruned[pruned["empty_layers"].map(len) > 0]
    if len(empty):
        collapsed = sorted({f"{row.criterion} at {100 * row.sparsity:g}%" for row in empty.itertuples()})
        document.note(f"Layers without any kept weight: {', '.join(collapsed)}.")
    panels = {}
    for sparsity in sorted(pruned["sparsity"].unique()):
        masks = compare.reached(irp, sparsity) if len(irp) else irp
        iterative = [masks.assign(criterion=masks["criterion"] + compare.ITERATIVE)] if len(masks) else []
        rows = pd.concat([*iterative, pruned[pruned["sparsity"] == sparsity]])
        panels[f"{100 * sparsity:g}% sparsity"] = rows.assign(method=rows["criterion"], family=rows["criterion"])
    document.heading("What it costs", 3)
    document.chart(charts.cost_chart(panels, codes), f"{stem}_cost", _COST)
    document.heading("What is kept of each layer", 3)
    document.chart(charts.layer_chart(pruned, codes), f"{stem}_layers", LAYERS)
    document.heading("How the training went", 3)
    add_trainings(document, pruned, stem, codes)


def _sanity(document: Document, pruned: pd.DataFrame, stem: str, codes: dict[str, int]) -> None:
    """Add the criteria that have sanity checks, at the sparsities of these."""
    metric, _ = compare.metric_of(pruned)
    names = [row.criterion.removesuffix(f", {row.sanity}") for row in pruned.itertuples()]
    rows = pruned.assign(series=names, check=pruned["sanity"].replace("none", AS_IT_IS))
    checked = rows.groupby(["series", "sparsity"])["check"].transform("nunique") > 1
    rows = rows[checked].sort_values("check", key=lambda column: column.map(_CHECK_ORDER.index), kind="stable")
    points = charts.spread(rows, ("series", "sparsity", "check"))
    document.chart(charts.check_chart(points, metric, codes), f"{stem}_checks", CHECKS)
    names = [f"{row.series} at {100 * row.sparsity:g}%" for row in rows.itertuples()]
    cells = rows.groupby([pd.Index(names, name="criterion"), "check"], sort=False)["test"].agg(
        lambda values: compare.cell(values, metric)
    )
    document.table(cells.unstack(fill_value="–"), f"Test {label(metric)} after the last epoch.")


def _points(pruned: pd.DataFrame, irp: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Return the points of `charts.sparsity_chart`."""
    frames = []
    for measure in measures:
        if len(irp):
            masks = irp.assign(sparsity=irp["iteration"].map(irp.groupby("iteration")["sparsity"].mean()))
            masks["series"] = masks["criterion"] + compare.ITERATIVE
            frames.append(charts.spread(masks, ("series", "sparsity"), measure).assign(iterative=True, measure=measure))
        if len(pruned):
            spread = charts.spread(pruned.assign(series=pruned["criterion"]), ("series", "sparsity"), measure)
            frames.append(spread.assign(iterative=False, measure=measure))
    return pd.concat(frames, ignore_index=True)


def _table(pruned: pd.DataFrame, irp: pd.DataFrame, measure: str) -> tuple[str, pd.DataFrame]:
    """Return caption and table of a measure."""
    metric, _ = compare.metric_of(pruned, irp)
    unit = ", %" if factor(metric) > 1 else ""
    meaning = compare.MEASURES[measure].format(metric)
    dense = compare.cell(compare.dense(pruned, irp)[measure], metric)
    seeds = ", ".join(map(str, sorted(pruned["seed"].unique())))
    table = compare.accuracy_table(pruned, irp, measure)
    between = "≈" in table.to_string()
    note = "; ≈: between two masks of iterative pruning" if between else ""
    over = f"mean ± standard deviation over seeds {seeds}; dense: {dense}"
    return f"{meaning[0].upper()}{meaning[1:]}{unit}; {over}; cost in trainings{note}.", table


def fit_table(card: dict[str, Any]) -> pd.DataFrame:
    """Return how well a fit of AutoS predicts the held-out triples of each of its runs."""
    rows = [
        {
            "labels from": Path(metrics["run"]).name,
            "held-out triples": metrics["samples"],
            "MSE": f"{metrics['mse']:.5f}",
            "label variance": f"{metrics['variance']:.5f}",
            "Spearman": f"{metrics['spearman']:.3f}",
            **{f"overlap at {100 * float(s):g}%": f"{100 * v:.1f}%" for s, v in metrics["overlap"].items()},
        }
        for metrics in card["held_out"]
    ]
    return pd.DataFrame(rows).set_index("labels from")


def _autos(document: Document, folder: Path, irp_runs: Sequence[Path]) -> None:
    """Add the learned map, the table of the fit, and survival and its prediction."""
    autos = AutoS.load(folder)
    document.heading(f"AutoS: {folder.name}")
    if len(autos.features.columns) > 1:
        document.chart(learned.score_map(autos, LookupTable.load(folder)), f"autos_{folder.name}_map", _MAP)
    document.text(
        "How well the predictions fit the tenth of the triples that was held out. Overlap: the fraction of the kept "
        "parameters that survival keeps too; by chance it would be the density."
    )
    document.table(fit_table(autos.card))
    if autos.features.columns != STORED:
        return
    fitted_to = {run["fingerprint"] for run in autos.card["runs"]}
    store = next((s for s in map(TripleStore.open, irp_runs) if s.fingerprint in fitted_to), None)
    if store is None:
        document.note("The runs it was fitted to are not among those reported.")
        return
    document.chart(learned.survival_charts(autos, store), f"autos_{folder.name}_truth", _TRUTH)


def _of(frame: pd.DataFrame, network: str, dataset: str) -> pd.DataFrame:
    return frame[(frame["network"] == network) & (frame["dataset"] == dataset)] if len(frame) else frame


def _counts(runs: Sequence[Path], pruned: pd.DataFrame, irp: pd.DataFrame) -> str:
    n = irp["folder"].nunique() if len(irp) else 0
    folders = [str(run) for run in runs] if len(runs) < 4 else sorted({str(run.parent) for run in runs})
    names = ", ".join(folders)
    return f"Runs of iterative pruning: {n}; of pruning at initialization: {len(pruned)}; from {names}."
