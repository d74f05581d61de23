"""The report that shows whatever a set of runs has brought."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

import pandas as pd

from autosparse.autos import AutoS, LookupTable
from autosparse.autos.autos import CARD
from autosparse.autos.features import STORED
from autosparse.cluster.outcome import say
from autosparse.config import Sanity
from autosparse.errors import UserError
from autosparse.files import read_json
from autosparse.metrics import factor, label
from autosparse.page import Document, numbered
from autosparse.store import TripleStore
from autosparse.study import charts, compare, curves, learned, results, runs
from autosparse.study.encodings import Codes

CURVES = "The test metric against sparsity, mean and deviation over seeds; what lies beyond the axis is cut off."
LAYERS = "Share of each layer's weights that is kept, from the input to the output, mean over seeds."
COST = "The test metric after the last epoch against all that was trained for it; better is higher up."
TRAININGS = "Every training: a line a run."
CHECKS = "Sanity checks: the mask as it is, and what is left of it when its indices within layers, or weights, change."
_MAP = "The score that AutoS gives a parameter, by its first two features in root mean squares of its network."
_CHECKS = ["as it is", *get_args(Sanity)[1:]]
_TRUTH = (
    "Survival of parameters drawn at random, 20,000 at most: as it was, and as AutoS predicts it from theta and grad. "
    "Lines are means, bands are where 80% lie."
)


def overview(document: Document, folders: Sequence[Path]) -> None:
    """Add all that a set of runs has brought, by network and data set, then by AutoS, then run by run.

    Raises:
        UserError: there is no complete run of pruning or IRP among them.
    """
    damaged = [f"{folder}/config.yaml is damaged, or missing" for folder in results.find_damaged(folders)]
    pruned, irp = results.load(*folders, damaged=damaged), results.load_irp(*folders, damaged=damaged)
    if pruned.empty and irp.empty:
        raise UserError("; ".join(damaged) or _nothing(folders))
    document.text(_counts(folders, pruned, irp))
    document.rows(pruned, irp)
    settings = sorted({(row.network, row.dataset) for frame in (pruned, irp) for row in frame.itertuples()})
    for network, dataset in settings:
        own = _of(pruned, network, dataset), _of(irp, network, dataset)
        for number, (recipe, says) in enumerate(compare.recipes(*own)):
            ours, theirs = (frame[frame["recipe"] == recipe] if len(frame) else frame for frame in own)
            stem = f"{network}_{dataset}" + (f"_{number}" if number else "")
            _setting(document, ours, theirs, f"{network} on {dataset}{says}", stem)
    for folder in results.find(folders, "autos"):
        try:
            _autos(document, folder, [Path(each) for each in irp["folder"].unique()] if len(irp) else [])
        except UserError as error:
            damaged.append(str(error))
    add_runs(document, folders, damaged)
    if damaged:
        document.heading("Left out")
        for line in dict.fromkeys(damaged):
            document.text(line)
            say(f"left out: {line}")
    if unfinished := results.find_unfinished(folders):
        document.heading("Not finished")
        for folder in unfinished:
            document.code(str(folder))


def summary(folders: Iterable[Path]) -> str:
    """The tables of a set of runs, each network on each data set, after the last epoch, for a terminal."""
    pruned, irp = results.load(*folders), results.load_irp(*folders)
    pruned = pruned[pruned["sanity"] == "none"] if len(pruned) else pruned
    found = list[str]()
    for network, dataset in sorted({(row.network, row.dataset) for row in pruned.itertuples()}):
        caption, table = _table(_of(pruned, network, dataset), _of(irp, network, dataset), "test")
        found.append(f"{network} on {dataset}. {caption}\n\n{table.to_string()}\n")
    return "\n".join(found)


def add_runs(document: Document, folders: Sequence[Path], damaged: list[str] | None = None) -> None:
    """Add the table of runs; see `runs.gather`."""
    found = runs.gather(folders, damaged)
    document.heading("Runs")
    document.runs(found)


def add_switch(document: Document, metric: str, measures: Sequence[str]) -> None:
    """Add the choice of a measure."""
    document.switch(f"Test {metric}", {measure: compare.SHORT[measure] for measure in measures})


def add_trainings(document: Document, pruned: pd.DataFrame, stem: str, codes: Codes = None) -> None:
    """Add the curves of all trainings."""
    document.switch("Training curves", curves.CURVES, name="curve")
    document.chart(curves.training_curves(pruned, results.histories(pruned), codes), f"{stem}_trainings", TRAININGS)


def _nothing(folders: Sequence[Path]) -> str:
    where = " ".join(map(str, folders))
    if unfinished := results.find_unfinished(folders):
        return f"{len(unfinished)} runs in {where}, none complete; autosparse runs status {where} says how they stand"
    return f"nothing to report in {where}; run autosparse irp and autosparse prune first"


def _setting(document: Document, pruned: pd.DataFrame, irp: pd.DataFrame, title: str, stem: str) -> None:
    document.heading(title)
    metric, better = compare.metric_of(pruned, irp)
    as_it_is = pruned[pruned["sanity"] == "none"] if len(pruned) else pruned
    shown = irp if as_it_is.empty else as_it_is
    measures = [measure for measure in compare.MEASURES if shown[measure].notna().any()]
    points, dense = _points(as_it_is, irp, measures), irp[irp["iteration"] == 0] if len(irp) else irp
    levels = {each: factor(metric) * dense[each].astype(float).mean() for each in measures} if len(dense) else {}
    best_first = points.groupby("series")["mean"].mean().sort_values(ascending=better == "lower").index
    codes = numbered(sorted(best_first, key=lambda name: not name.endswith(compare.ITERATIVE)))
    add_switch(document, metric, measures)
    tables = {} if as_it_is.empty else {each: _table(as_it_is, irp, each) for each in measures}  # refuses mixed recipes
    picture = charts.against_sparsity(points, metric, better, levels, codes)
    document.chart(picture, f"{stem}_accuracy", CURVES)
    if as_it_is.empty:
        document.table(compare.iterations_table(irp), f"Test {label(metric)}, of every mask after the last epoch.")
    else:
        document.tables(tables)
        _pruned(document, as_it_is, irp, stem, codes)
    if len(as_it_is) < len(pruned):
        _sanity(document, pruned, metric, stem, codes)


def _pruned(document: Document, pruned: pd.DataFrame, irp: pd.DataFrame, stem: str, codes: dict[str, int]) -> None:
    empty = pruned[pruned["empty_layers"].map(len) > 0]
    if len(empty):
        collapsed = sorted({f"{row.criterion} at {100 * row.sparsity:g}%" for row in empty.itertuples()})
        document.note(f"Layers without any weight left: {', '.join(collapsed)}.")
    panels = {}
    for sparsity in sorted(pruned["sparsity"].unique()):
        masks = compare.reached(irp, sparsity) if len(irp) else irp
        iterative = [masks.assign(criterion=masks["criterion"] + compare.ITERATIVE)] if len(masks) else []
        at = pd.concat([*iterative, pruned[pruned["sparsity"] == sparsity]])
        panels[f"{100 * sparsity:g}% sparsity"] = at.assign(method=at["criterion"], family=at["criterion"])
    document.heading("What it costs", 3)
    document.chart(charts.against_cost(panels, codes), f"{stem}_cost", COST)
    document.heading("What is kept of each layer", 3)
    document.chart(charts.layer_densities(pruned, codes), f"{stem}_layers", LAYERS)
    document.heading("How the training went", 3)
    add_trainings(document, pruned, stem, codes)


def _sanity(document: Document, pruned: pd.DataFrame, metric: str, stem: str, codes: dict[str, int]) -> None:
    """The criteria that were checked, at the sparsities at which they were."""
    names = [row.criterion.removesuffix(f", {row.sanity}") for row in pruned.itertuples()]
    rows = pruned.assign(series=names, check=pruned["sanity"].replace("none", "as it is"))
    checked = rows.groupby(["series", "sparsity"])["check"].transform("nunique") > 1
    rows = rows[checked].sort_values("check", key=lambda column: column.map(_CHECKS.index), kind="stable")
    document.heading("Sanity checks", 3)
    points = charts.spread(rows, ("series", "sparsity", "check"))
    document.chart(charts.checks(points, metric, codes), f"{stem}_checks", CHECKS)
    at = [f"{row.series} at {100 * row.sparsity:g}%" for row in rows.itertuples()]
    cells = rows.groupby([pd.Index(at, name="criterion"), "check"], sort=False)["test"].agg(
        lambda values: compare.cell(values, metric)
    )
    document.table(cells.unstack(fill_value="–"), f"Test {label(metric)} after the last epoch.")


def _points(pruned: pd.DataFrame, irp: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """What `charts.against_sparsity` draws."""
    found = []
    for measure in measures:
        if len(irp):
            masks = irp.assign(sparsity=irp["iteration"].map(irp.groupby("iteration")["sparsity"].mean()))
            masks["series"] = masks["criterion"] + compare.ITERATIVE
            found.append(charts.spread(masks, ("series", "sparsity"), measure).assign(iterative=True, measure=measure))
        if len(pruned):
            spread = charts.spread(pruned.assign(series=pruned["criterion"]), ("series", "sparsity"), measure)
            found.append(spread.assign(iterative=False, measure=measure))
    return pd.concat(found, ignore_index=True)


def _table(pruned: pd.DataFrame, irp: pd.DataFrame, measure: str) -> tuple[str, pd.DataFrame]:
    """Caption and table of a measure."""
    metric, _ = compare.metric_of(pruned, irp)
    unit = ", %" if factor(metric) > 1 else ""
    named = compare.MEASURES[measure].format(metric)
    over = f"mean ± deviation over seeds {_seeds(pruned)}; dense: {compare.dense_accuracy(irp, measure)}"
    table = compare.accuracy_table(pruned, irp, measure)
    between = (
        "; ≈: between two masks of iterative pruning" if table.map(lambda text: "≈" in text).any(axis=None) else ""
    )
    return f"{named[0].upper()}{named[1:]}{unit}; {over}; cost in trainings{between}.", table


def _autos(document: Document, folder: Path, irp_runs: Sequence[Path]) -> None:
    autos, config = AutoS.load(folder), read_json(folder / CARD)
    document.heading(f"AutoS: {folder.name}")
    if len(autos.features.columns) > 1:
        document.chart(learned.learned_map(autos, LookupTable.load(folder)), f"autos_{folder.name}_map", _MAP)
    rows = []
    for metrics in config["card"]["held_out"]:
        overlap = {f"overlap at {100 * float(s):g}%": f"{100 * v:.1f}%" for s, v in metrics["overlap"].items()}
        rows.append(
            {
                "labels from": Path(metrics["run"]).name,
                "held-out triples": metrics["samples"],
                "MSE": f"{metrics['mse']:.5f}",
                "label variance": f"{metrics['variance']:.5f}",
                "Spearman": f"{metrics['spearman']:.3f}",
                **overlap,
            }
        )
    document.text(
        "How well the predictions fit the tenth of the triples that was held out. Overlap: the share of the kept "
        "parameters that survival keeps too; by chance it would be the density."
    )
    document.table(pd.DataFrame(rows).set_index("labels from"))
    if autos.features.columns != STORED:
        return
    fitted_to = {run["fingerprint"] for run in config["card"]["runs"]}
    store = next((s for s in map(TripleStore.open, irp_runs) if s.fingerprint in fitted_to), None)
    if store is None:
        document.note("The runs it was fitted to are not among those reported.")
        return
    document.chart(learned.truth_and_prediction(autos, store), f"autos_{folder.name}_truth", _TRUTH)


def _of(frame: pd.DataFrame, network: str, dataset: str) -> pd.DataFrame:
    return frame[(frame["network"] == network) & (frame["dataset"] == dataset)] if len(frame) else frame


def _seeds(pruned: pd.DataFrame) -> str:
    return ", ".join(map(str, sorted(pruned["seed"].unique())))


def _counts(runs: Sequence[Path], pruned: pd.DataFrame, irp: pd.DataFrame) -> str:
    n = irp["folder"].nunique() if len(irp) else 0
    folders = [str(run) for run in runs] if len(runs) < 4 else sorted({str(run.parent) for run in runs})
    names = ", ".join(folders)
    return f"Runs of iterative pruning: {n}; of pruning at initialization: {len(pruned)}; from {names}."
