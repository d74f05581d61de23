"""Results of runs, read from their folders as data frames."""

import json
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from autosparse.autos.autos import CARD
from autosparse.cluster.records import FILES, read_config
from autosparse.config import IRPConfig, PruneConfig
from autosparse.criteria.table import ROWS
from autosparse.errors import UserError
from autosparse.files import read_json, walk
from autosparse.store import TripleStore
from autosparse.store.schema import MARKER
from autosparse.store.sidecars import HISTORY, read_history

# Options in the configuration of a run that belong to neither its task nor its training, and their defaults, which runs
# of an earlier version lack.
_VARIED = {field.name: field.default for kind in (IRPConfig, PruneConfig) for field in fields(kind)}
_VARIED |= dict.fromkeys(("kind", "options", FILES, "autos", "criterion_code", "grad_batches"))
# Those of them that have a column or decide nothing.
_TOLD = {"kind", "options", FILES, "criterion", "sparsity", "sanity", "seed", "order_seed"}
_RESULT = {"prune": "result.json", "autos": CARD, "irp": f"triples.zarr/{MARKER}", "report": "index.html"}


def find(paths: Iterable[str | Path], kind: str | None, complete: bool = True) -> list[Path]:
    """Return the folders of runs of one kind at or below the paths, sorted; by default those of complete runs.

    The kind None is that of runs whose configuration is missing or damaged.
    """
    folders = list[Path]()
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"no runs at {path}")
        folders += [folder for folder, _, files in walk(path) if _kind(folder, {*files}) == kind]
    ended = [f for f in folders if kind is None or not complete or (f / _RESULT[kind]).is_file()]
    return sorted({folder.resolve() for folder in ended})


def _kind(folder: Path, files: set[str]) -> str | None:
    """Return the kind of the run in a folder; "" if there is none, None if its configuration is missing or damaged."""
    if "config.yaml" not in files:
        return None if {"result.json", HISTORY} & files else ""
    try:
        kind = read_config(folder).get("kind")
    except UserError:
        return None
    return kind if kind in _RESULT else ""


def load(*paths: str | Path, damaged: list[str] | None = None) -> pd.DataFrame:
    """Return one row per network that was pruned at initialization and trained.

    Columns: `criterion`, `sparsity`, `seed`, `network`, `dataset`, `same_initialization`, the keys of
    `compare.MEASURES`, `cost` in full training runs, `density`, `kept`, `parameters`, `empty_layers`,
    `layer_densities`, `recipe` (JSON), seconds, `folder`. If runs of one criterion differ in further options,
    `criterion` names these. A copy of a run has no row. The list `damaged` receives one line per run that is left out
    because it is damaged or a copy; without it, damage raises a UserError.
    """
    rows = _load("prune", lambda folder: [_pruned(folder)], paths, damaged)
    if len(rows):
        rows["criterion"] += rows["sanity"].map(lambda check: "" if check == "none" else f", {check}")
    return rows


def load_irp(*paths: str | Path, damaged: list[str] | None = None) -> pd.DataFrame:
    """Return one row per mask of each run of IRP: the metric of the network trained with it from its own weights.

    Columns are those of `load`, with `iteration`, and `criterion` as `irp-<criterion>`.
    """
    return _load("irp", _iterations, paths, damaged)


def histories(pruned: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Return the epochs of each row of `load`, by its folder."""
    return {folder: read_json(Path(folder) / "result.json")["history"] for folder in pruned["folder"]}


def _load(
    kind: str, read: Callable[[Path], list[dict[str, Any]]], paths: Iterable[str | Path], damaged: list[str] | None
) -> pd.DataFrame:
    """Return the rows of all runs of one kind, see `load`."""
    rows = []
    for folder in find(paths, kind):
        try:
            rows += read(folder)
        except UserError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
    return _distinct(pd.DataFrame(rows), damaged) if rows else pd.DataFrame()


def _iterations(folder: Path) -> list[dict[str, Any]]:
    config, store = read_config(folder), TripleStore.open(folder)
    history = read_history(folder, store.ledger.sidecars)
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
    """Return the options that must be equal within a table as JSON: the recipe, the task and its fields."""
    recipe = config["recipe"]
    task = {key: value for key, value in config.items() if key not in _VARIED and key != "recipe"}
    task = {f"task.{key}" if key in recipe else key: value for key, value in task.items()}
    return json.dumps({**task, **recipe}, sort_keys=True)


def _settings(config: dict[str, Any]) -> str:
    """Return the options that neither the table nor the row names as JSON."""
    row = ROWS.get(config["criterion"].partition("-x")[0])  # random-erk-x2 is trained twice as long
    unread = {"grad_batches"} if row and row.data == "no" else set()
    return json.dumps({key: config.get(key, default) for key, default in _VARIED.items() if key not in _TOLD | unread})


def _distinct(frame: pd.DataFrame, damaged: list[str] | None) -> pd.DataFrame:
    """Return the rows without copies, with the options in which runs of one criterion differ in its name."""
    names = ["network", "dataset", "criterion", "seed", "order_seed", "sparsity", "sanity", "iteration"]
    key = [*frame.columns.intersection(names), "recipe", "settings"]
    copies = frame.duplicated(key)
    if damaged is not None:
        first = frame.groupby(key, dropna=False)["folder"].transform("first")
        damaged += dict.fromkeys(frame["folder"][copies] + " is a copy of the run in " + first[copies])
    frame = frame[~copies].reset_index(drop=True)
    for _, group in frame.groupby(["network", "dataset", "criterion"]):
        options = pd.DataFrame(group["settings"].map(json.loads).tolist(), index=group.index, dtype=object)
        for name in sorted(options):
            if options[name].map(json.dumps).nunique() > 1:
                values = [f", {name}={'default' if value is None else value}" for value in options[name]]
                frame.loc[group.index, "criterion"] += values
    return frame.drop(columns="settings")
