"""The table of runs: the state, options, results, training curve and mask of each, and the end of its log."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from autosparse.autos.autos import CARD
from autosparse.cluster import status
from autosparse.cluster.records import FILES, PROGRESS, read_config
from autosparse.errors import UserError
from autosparse.files import read_json, read_record
from autosparse.metrics import factor
from autosparse.options import SECTION
from autosparse.page import Comparison, Document, bar, sparkline
from autosparse.store.sidecars import HISTORY
from autosparse.study import charts, results
from autosparse.study.masks import describe_masks

# Columns of the table of runs, and the heads that differ from their names in results.
_COLUMNS = ["kind", "network", "dataset", "criterion", "sparsity", "seed", "cost", "metric"]
_HEADS = {"dataset": "data", "criterion": "method", "sparsity": "sparsity, %"}
_MEASURES = {"test": "last epoch", "test_best_validation": "best by validation", "test_best": "best epoch"}
_LINES = 20  # of a log, at its end


def add_runs(
    document: Document, folders: Sequence[Path], pruned: pd.DataFrame, irp: pd.DataFrame, live: bool = False
) -> None:
    """Add the table of runs with the state of each, unfinished runs first; IRP has the results of its last mask.

    Two runs can be compared: their options, their curves and, unless `live`, the masks of complete runs. A live table
    has bars and curves; the end of each log is below it.
    """
    runs = list[Path]()
    for folder in folders:
        with suppress(UserError):  # no runs there
            runs += status.find([folder])
    reports = {*results.find(folders, "report", complete=False)}
    runs = [folder for folder in dict.fromkeys(run.resolve() for run in runs) if folder not in reports]
    states = pd.DataFrame(status.rows(runs), index=[*map(str, runs)], columns=["state", "done", "left", "why"])
    metrics = _metrics(pruned, irp)
    cells = _cells(folders, pruned, irp, metrics)
    shown = [folder for folder in cells.index if folder in states.index]
    order = [*states.index.difference(shown, sort=False), *shown]
    curves = {folder: _curve(Path(folder), metrics) for folder in order}
    states = states.astype(object)
    if live:
        states["done"] = states["done"].map(lambda done: bar(done) if done else None)
        states.insert(
            3, "curve", pd.Series({folder: sparkline(curves[folder]["test"]) for folder in order}, dtype=object)
        )
    several = len(order) > 1
    alike = [name for name in ("network", "data", "metric") if several and name in cells and cells[name].nunique() == 1]
    table = states.where(states.astype(bool), None).join(cells.drop(columns=alike)).loc[order]
    options = {folder: _options(Path(folder)) for folder in order}
    names = _names(options)
    details = {name: {"options": options[folder], "curve": curves[folder]} for name, folder in names.items()}
    networks = list[dict[str, Any]]()
    if not live:
        trained = {
            name: Path(folder) for name, folder in names.items() if cells["kind"].get(folder) in ("irp", "prune")
        }
        masks, networks = describe_masks(trained)
        for name, mask in masks.items():
            details[name]["mask"] = mask
    document.heading("Runs")
    document.switch("Metric", {name: name for name in metrics}, "metric")
    counts = [f"{count} {state}" for state, count in states["state"].value_counts().items()]
    comparison = Comparison(runs=details, networks=networks, chart=charts.pair_chart(metrics), curves=charts.CURVES)
    table = table.set_axis(pd.Index([*names], name="run"))
    document.runs(table, ", ".join(counts), comparison, _columns(metrics))
    if live:
        document.heading("Logs")
        document.logs({name: (folder, status.log_end(Path(folder), _LINES)) for name, folder in names.items()})


def _names(options: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the folder of each run by its name, without network and data, or by its path if several have the name."""
    names = {
        folder: Path(folder).name.removeprefix(f"{known.get('network')}_{known.get('dataset')}_")
        for folder, known in options.items()
    }
    counts, top = Counter(names.values()), os.path.commonpath([*options]) if options else ""
    return {name if counts[name] == 1 else os.path.relpath(folder, top): folder for folder, name in names.items()}


def _metrics(pruned: pd.DataFrame, irp: pd.DataFrame) -> list[str]:
    """Return the names of all metrics; the first stands for the first metric of each run, whatever its name."""
    first = [name for frame in (pruned, irp) if len(frame) for name in frame["metric"].unique()]
    others = [name[5:] for frame in (pruned, irp) for name in frame if name.startswith("test/")]
    return [*dict.fromkeys([*first, *others])] or ["accuracy"]


def _columns(metrics: Sequence[str]) -> dict[str, str]:
    """Return the metric of each column that has one."""
    return {head if name == metrics[0] else f"{name}, {head}": name for name in metrics for head in _MEASURES.values()}


def _cells(folders: Sequence[Path], pruned: pd.DataFrame, irp: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return what the table of runs says of complete runs, by folder."""
    frames = []
    if len(irp):
        masks = irp.groupby("folder", sort=False).tail(1)
        frames.append(masks.assign(kind="irp", cost=masks["iteration"] + 1.0))
    for folder in results.find(folders, "autos"):
        with suppress(UserError):  # the caller names damaged fits
            fit = read_json(folder / CARD)["card"]["fit"]
            criterion = f"{fit['backbone']} of {', '.join(fit['features'])}"
            row = {"folder": str(folder), "kind": "autos", "criterion": criterion, "seed": fit["seed"]}
            frames.append(pd.DataFrame([row]))
    if len(pruned):
        frames.append(pruned.assign(kind="prune"))
    if not frames:
        return pd.DataFrame(columns=["kind"])
    rows = pd.concat(frames).set_index("folder")
    cells = rows.reindex(columns=_COLUMNS).rename(columns=_HEADS)
    cells["sparsity, %"] *= 100.0
    for measure, head in _MEASURES.items():
        values = rows.get(measure, pd.Series(index=rows.index, dtype=float)).astype(float)
        cells[head] = rows["metric"].map(factor) * values
        for name in metrics[1:]:
            own = rows.get(f"{measure}/{name}", pd.Series(index=rows.index, dtype=float)).astype(float)
            cells[f"{name}, {head}"] = factor(name) * own.where(rows["metric"] != name, values)
    return cells


def _options(folder: Path) -> dict[str, str]:
    """Return the options that decide the results of a run, asked for or begun; those of a section as SECTION.OPTION."""
    config = read_record(folder / "job.json").get("config") or {}
    with suppress(UserError, OSError):  # the report names damaged configurations
        config = read_config(folder)
    flat = pd.json_normalize({key: value for key, value in config.items() if key not in (SECTION, FILES)})
    return {name: str(value) for row in flat.to_dict("records") for name, value in row.items()}


def _curve(folder: Path, metrics: Sequence[str]) -> dict[str, list[float | None]]:
    """Return the curves of a run as `charts.thin`: epochs, those so far if it is unfinished, or masks of IRP."""
    with suppress(UserError, OSError):
        return charts.thin([row | {"epoch": row["iteration"]} for row in read_json(folder / HISTORY)], metrics)
    result, progress = (read_record(folder / name) for name in ("result.json", PROGRESS))
    return charts.thin(result.get("history", progress.get("history", [])), metrics)
