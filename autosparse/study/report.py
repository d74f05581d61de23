"""The report of a set of runs: results by network and data, fitted criteria, and the state of every run."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import get_args

import pandas as pd

from autosparse.autos import AutoS, LookupTable
from autosparse.autos.features import STORED
from autosparse.cluster.records import say
from autosparse.config import Sanity
from autosparse.errors import UserError, counted
from autosparse.metrics import factor, label
from autosparse.page import Document
from autosparse.store import TripleStore
from autosparse.study import charts, compare, learned, results
from autosparse.study.compare import per_cent
from autosparse.study.runs import add_runs
from autosparse.study.statistics import SIGNIFICANT, TESTED, Difference, corrected, paired, ranked

_CURVES = "The test metric against sparsity, mean ± standard deviation over n seeds{}."
LAYERS = "Fraction of each layer's weights that is kept, from the input to the output, mean over seeds."
_CHECKS = "Sanity checks: the mask as it is, and after its indices within layers, or the weights, have changed."
_COST = "The last epoch's test metric, mean ± standard deviation, against all that was trained; better is higher up."
_TRAININGS = "Every training run as a line."
_MAP = (
    "The score of a parameter by AutoS, over its first two features, each in units of the network's root mean square."
)
_CHECK_ORDER = ["as it is", *get_args(Sanity)[1:]]  # a mask without a sanity check first
_TRUTH = (
    "Survival of parameters drawn at random, 20,000 at most: as it was, and as AutoS predicts it from theta and grad. "
    "Lines are means, bands are where 80% lie."
)


def overview(document: Document, folders: Sequence[Path], live: bool = False) -> None:
    """Add the results of a set of runs by network and data set, then by AutoS, and the table of runs.

    A live overview has the table of runs first, and may have no complete runs.
    """
    damaged = [f"{folder}/config.yaml is damaged, or missing" for folder in results.find(folders, None)]
    pruned, irp = results.load(*folders, damaged=damaged), results.load_irp(*folders, damaged=damaged)
    nothing = pruned.empty and irp.empty
    if nothing and not live:
        where = " ".join(map(str, folders))
        nowhere = f"no complete runs of irp or prune in {where}; autosparse runs status {where} lists them"
        raise UserError("; ".join(damaged) or nowhere)
    names = map(str, folders) if len(folders) < 4 else sorted({str(folder.parent) for folder in folders})
    document.facts(*_facts(pruned, irp), f"from {', '.join(names)}")
    if live:
        add_runs(document, folders, pruned, irp, live)
    if not nothing:
        document.rows(pruned, irp)
    for network, dataset, *frames in _by_network(pruned, irp):
        for number, (recipe, difference) in enumerate(compare.recipes(*frames)):
            pruned_alike, irp_alike = (_where(frame, recipe=recipe) for frame in frames)
            stem = f"{network}_{dataset}" + (f"_{number}" if number else "")
            _setting(document, pruned_alike, irp_alike, f"{network} on {dataset}{difference}", stem)
    seen = Counter[str]()
    irp_runs = [Path(run) for run in irp["folder"].unique()] if len(irp) else []
    for folder in results.find(folders, "autos"):
        number = seen[folder.name]
        seen[folder.name] += 1
        try:
            _autos(document, folder, f"autos_{folder.name}" + (f"_{number}" if number else ""), irp_runs)
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
    texts = list[str]()
    for network, dataset, unchecked, masks in _by_network(_where(pruned, sanity="none"), irp):
        if len(unchecked):
            caption, table = _table(unchecked, masks, "test", _best_first(unchecked, masks), mark=False)
            texts.append(f"{network} on {dataset}. {caption}\n\n{table.to_string()}\n")
    return "\n".join(texts)


def add_curves(
    document: Document, rows: pd.DataFrame, dense: pd.DataFrame, stem: str, codes: charts.Codes
) -> Sequence[str]:
    """Add the test metric against sparsity and the choice of a measure; return the measures that the rows have."""
    chart = charts.sparsity_chart(rows, dense, codes)
    measures = chart.choices["measure"]
    metric, _ = compare.metric_of(rows)
    document.switch(f"Test {metric}", {measure: compare.SHORT[measure] for measure in measures})
    document.chart(chart, stem, _CURVES.format("; the axis cuts off distant points" if chart.cut else ""))
    return measures


def add_trainings(document: Document, pruned: pd.DataFrame, stem: str, codes: charts.Codes) -> None:
    """Add the curves of all training runs."""
    document.switch("Training curves", charts.CURVES, name="curve")
    chart = charts.training_chart(pruned, results.histories(pruned), codes)
    document.chart(chart, f"{stem}_trainings", _TRAININGS)


def add_checks(document: Document, rows: pd.DataFrame, stem: str, codes: charts.Codes) -> None:
    """Add the criteria that have sanity checks, at the sparsities of these."""
    rows = rows.assign(check=rows["sanity"].replace("none", _CHECK_ORDER[0]))
    checked = rows.groupby(["criterion", "sparsity"])["check"].transform("nunique") > 1
    rows = rows[checked].sort_values("check", key=lambda column: column.map(_CHECK_ORDER.index), kind="stable")
    document.chart(charts.check_chart(rows, codes), f"{stem}_checks", _CHECKS)
    rows["criterion"] = [f"{row.criterion} at {per_cent(row.sparsity)}" for row in rows.itertuples()]
    metric, _ = compare.metric_of(rows)
    document.table(compare.table(rows, "criterion", "check"), f"Test {label(metric)} after the last epoch.")


def add_fit(document: Document, autos: AutoS, table: LookupTable, stem: str) -> None:
    """Add the learned score and how well a fit of AutoS predicts the held-out triples of each of its runs."""
    if len(autos.features.columns) > 1:
        document.chart(learned.score_map(autos, table), stem, _MAP)
    document.text(
        "How well the predictions fit the tenth of the triples that was held out. Overlap: the fraction of the kept "
        "parameters that survival keeps too; by chance it would be the density."
    )
    rows = [
        {
            "labels from": Path(metrics["run"]).name,
            "held-out triples": metrics["samples"],
            "MSE": f"{metrics['mse']:.5f}",
            "label variance": f"{metrics['variance']:.5f}",
            "Spearman": f"{metrics['spearman']:.3f}",
            **{f"overlap at {100 * float(s):g}%": f"{100 * v:.1f}%" for s, v in metrics["overlap"].items()},
        }
        for metrics in autos.card["held_out"]
    ]
    document.table(pd.DataFrame(rows).set_index("labels from"))


def _by_network(pruned: pd.DataFrame, irp: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame, pd.DataFrame]]:
    """Yield each network and data set with its rows."""
    for network, dataset in sorted(
        {(row.network, row.dataset) for frame in (pruned, irp) for row in frame.itertuples()}
    ):
        alike = partial(_where, network=network, dataset=dataset)
        yield network, dataset, alike(pruned), alike(irp)


def _where(frame: pd.DataFrame, **values: str) -> pd.DataFrame:
    """Return the rows with these values; a frame without rows has no columns."""
    for column, value in values.items():
        frame = frame[frame[column] == value] if len(frame) else frame
    return frame


def _facts(pruned: pd.DataFrame, irp: pd.DataFrame) -> list[str]:
    """Return the date of the report, the number of runs of each kind, when they ended and how long they took."""
    facts = [f"{datetime.now():%Y-%m-%d %H:%M}"]
    files = list[Path]()
    for frame, kind in ((pruned, "pruning at initialization"), (irp, "iterative pruning")):
        folders = frame["folder"].unique() if len(frame) else []
        files += [Path(folder) / "status.json" for folder in folders]
        if count := len(folders):
            facts.append(f"{counted(count, 'run')} of {kind}")
    days = sorted({f"{datetime.fromtimestamp(file.stat().st_mtime):%Y-%m-%d}" for file in files if file.is_file()})
    facts += [f"ended {' to '.join(dict.fromkeys([days[0], days[-1]]))}"] if days else []
    minutes = float(pruned[["seconds_mask", "seconds_train"]].sum(axis=None)) / 60 if len(pruned) else 0
    return facts + ([f"pruning and training took {minutes:.1f} minutes"] if minutes else [])


def _verdict(pruned: pd.DataFrame) -> tuple[str, str]:
    """Return which method is best or on par at each cost and sparsity, and how it was tested.

    Both are empty unless two methods have the same cost.
    """
    metric, better = compare.metric_of(pruned)
    costs = pruned.groupby("criterion")["cost"].transform("mean").round(1)
    compared = list[tuple[float, float, str, dict[str, Difference]]]()
    for (cost, sparsity), rows in pruned[pruned["sparsity"] > 0].groupby([costs, "sparsity"]):
        values = {name: group.groupby("seed")["test"].mean() for name, group in rows.groupby("criterion")}
        best, *others = ranked(values, better)
        if others:
            compared.append(
                (cost, sparsity, best, {name: paired(values[best], values[name], better) for name in others})
            )
    pairs = [pair for *_, others in compared for pair in others.values()]
    p_values = iter(corrected([pair.p for pair in pairs]))
    cases = dict[tuple[float, str, bool], list[tuple[str, str, float]]]()
    for cost, sparsity, best, differences in compared:
        p = {name: next(p_values) for name in differences}
        known = {name: value for name, value in p.items() if not math.isnan(value)} or p
        rivals = [name for name in known if not known[name] < SIGNIFICANT]
        rival = rivals[0] if rivals else max(known, key=lambda name: known[name])
        cases.setdefault((cost, best, bool(rivals)), []).append((per_cent(sparsity), rival, p[rival]))
    parts = dict[float, list[str]]()
    for (cost, best, on_par), details in cases.items():
        at, names = (_joined([*dict.fromkeys(words)]) for words in ([d[0] for d in details], [d[1] for d in details]))
        p_texts = _joined([f"{p_value:.2g}" for *_, p_value in details])
        tested = f" (on par with {names}, p = {p_texts})" if on_par else f" (p at most {p_texts})"
        parts.setdefault(cost, []).append(f"**{best}** at {at}" + ("" if "nan" in p_texts else tested))
    sentence = "; ".join(f"at cost {cost:g} {', '.join(clause)}" for cost, clause in parts.items())
    counts = sorted({pair.n for pair in pairs})
    if not counts:
        return "", ""
    n = " to ".join(dict.fromkeys(map(str, (counts[0], counts[-1]))))
    how = f"Test {metric} after the last epoch; cost in full training runs; n = {n} {'seed' if n == '1' else 'seeds'}"
    if counts[-1] < TESTED:
        return f"Best: {sentence}.", f"{how}, too few for a test."
    corrections = f", p corrected for {len(pairs)} comparisons" if len(pairs) > 1 else ""
    test = f"paired t-tests of the best with the others of its cost{corrections}"
    return f"Best: {sentence}.", f"{how}; {test}; on par: p is at least {SIGNIFICANT}."


def _joined(words: Sequence[str]) -> str:
    """Join words as in `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _setting(document: Document, pruned: pd.DataFrame, irp: pd.DataFrame, title: str, stem: str) -> None:
    """Add the results of one recipe for one network on one data set; those by metric follow the switch `metric`."""
    document.heading(title)
    unchecked = _where(pruned, sanity="none")
    codes = document.number(_best_first(unchecked, irp))
    for block, text in zip((document.lead, document.note), _verdict(unchecked) if len(unchecked) else (), strict=False):
        block(text)
    metrics = compare.metrics_of(pruned, irp)
    document.switch("Metric", {name: name for name in metrics}, "metric")

    def add(write: Callable[..., None], *frames: pd.DataFrame) -> None:
        parts = {metrics[0]: partial(write, document, *frames, stem, codes)}
        for number, name in enumerate(metrics[1:], 2):
            swapped = [compare.of_metric(frame, name) for frame in frames]
            parts[name] = partial(write, document, *swapped, f"{stem}_metric-{number}", codes)
        document.choice(parts, "metric")

    add(_results, unchecked, irp)
    if len(unchecked):
        document.heading("What it costs", 3)
        add(_costs, unchecked, irp)
        _layers(document, unchecked, stem, codes)
        document.heading("How the training went", 3)
        add_trainings(document, unchecked, stem, codes)
    if len(unchecked) < len(pruned):
        document.heading("Sanity checks", 3)
        names = [row.criterion.removesuffix(f", {row.sanity}") for row in pruned.itertuples()]
        add(add_checks, pruned.assign(criterion=names))


def _best_first(pruned: pd.DataFrame, irp: pd.DataFrame) -> list[str]:
    """Return the series: iterative pruning first, then by the first metric after the last epoch, the best first."""
    _, better = compare.metric_of(pruned, irp)
    means = charts.spread(_series(pruned, irp), ("criterion", "sparsity")).groupby("criterion")["mean"].mean()
    best_first = means.sort_values(ascending=better == "lower").index
    return sorted(best_first, key=lambda name: not name.endswith(compare.ITERATIVE))


def _series(pruned: pd.DataFrame, irp: pd.DataFrame) -> pd.DataFrame:
    """Return all rows with `iterative`; the sparsity of a mask of IRP is the mean over the runs of its criterion."""
    frames = []
    if len(irp):
        sparsity = irp.groupby(["criterion", "iteration"])["sparsity"].transform("mean")
        frames.append(irp.assign(criterion=irp["criterion"] + compare.ITERATIVE, iterative=True, sparsity=sparsity))
    if len(pruned):
        frames.append(pruned.assign(iterative=False))
    return pd.concat(frames, ignore_index=True)


def _results(document: Document, pruned: pd.DataFrame, irp: pd.DataFrame, stem: str, codes: dict[str, int]) -> None:
    """Add a metric against sparsity and its tables."""
    metric, _ = compare.metric_of(pruned, irp)
    measures = add_curves(document, _series(pruned, irp), compare.dense(pruned, irp), f"{stem}_accuracy", codes)
    if len(pruned):
        document.tables({measure: _table(pruned, irp, measure, [*codes]) for measure in measures})
    else:
        rows = irp.assign(sparsity=irp["sparsity"].map(lambda value: f"{100 * value:.2f}%"))
        compare.one_recipe(rows)
        caption = f"Test {label(metric)}, of every mask after the last epoch."
        document.table(compare.table(rows, "sparsity", "criterion"), caption)


def _costs(document: Document, pruned: pd.DataFrame, irp: pd.DataFrame, stem: str, codes: dict[str, int]) -> None:
    """Add a metric against the cost."""
    masks = pd.concat([compare.reached(irp, sparsity) for sparsity in pruned["sparsity"].unique()])
    if len(masks):
        masks["criterion"] += compare.ITERATIVE
    document.chart(charts.cost_chart(pd.concat([masks, pruned]), codes), f"{stem}_cost", _COST)


def _layers(document: Document, pruned: pd.DataFrame, stem: str, codes: dict[str, int]) -> None:
    """Add the densities of layers, and the names of the methods that leave a layer empty."""
    document.heading("What is kept of each layer", 3)
    empty = pruned[pruned["empty_layers"].map(len) > 0]
    if len(empty):
        collapsed = sorted({f"{row.criterion} at {per_cent(row.sparsity)}" for row in empty.itertuples()})
        document.note(f"Layers without any kept weight: {', '.join(collapsed)}.")
    document.chart(charts.layer_chart(pruned, codes), f"{stem}_layers", LAYERS)


def _table(
    pruned: pd.DataFrame, irp: pd.DataFrame, measure: str, names: Sequence[str], mark: bool = True
) -> tuple[str, pd.DataFrame]:
    """Return caption and table of a measure, in the order of the names, with the best of each column **bold**."""
    metric, better = compare.metric_of(pruned, irp)
    unit = ", %" if factor(metric) > 1 else ""
    meaning = compare.MEASURES[measure].format(metric)
    dense = compare.cell(compare.dense(pruned, irp)[measure], metric)
    seeds = ", ".join(map(str, sorted(pruned["seed"].unique())))
    if pruned.groupby(["criterion", "sparsity"])["seed"].nunique().min() < pruned["seed"].nunique():
        seeds += "; some methods lack some of them"
    table = compare.accuracy_table(pruned, irp, measure)
    between = "≈" in table.to_string()
    note = "; ≈: between two masks of iterative pruning" if between else ""
    over = f"mean ± standard deviation over seeds {seeds}; dense: {dense}"
    if marked := mark and better != "":
        for column in table.columns[1:]:
            means = pd.to_numeric(table[column].str.extract(r"([-\d.]+)")[0], errors="coerce")
            best = means == (means.max() if better == "higher" else means.min())
            table.loc[best, column] = "**" + table.loc[best, column] + "**"
    bold = "; bold: the best of its column" if marked else ""
    caption = f"{meaning[0].upper()}{meaning[1:]}{unit}; {over}; cost in training runs{note}{bold}."
    return caption, table.loc[sorted(table.index, key=[*names].index)]


def _autos(document: Document, folder: Path, stem: str, irp_runs: Sequence[Path]) -> None:
    """Add the learned map, the table of the fit, and survival and its prediction."""
    autos = AutoS.load(folder)
    document.heading(f"AutoS: {folder.name}")
    add_fit(document, autos, LookupTable.load(folder), f"{stem}_map")
    if autos.features.columns != STORED:
        return
    fitted_to = {run["fingerprint"] for run in autos.card["runs"]}
    store = next((s for s in map(TripleStore.open, irp_runs) if s.fingerprint in fitted_to), None)
    if store is None:
        document.note("The runs it was fitted to are not among those reported.")
        return
    document.chart(learned.survival_charts(autos, store), f"{stem}_truth", _TRUTH)
