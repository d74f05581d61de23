"""Results gathered from the folders of runs as data frames."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from autosparse.autos.autos import CARD
from autosparse.cluster.provenance import read_config
from autosparse.config import IRPConfig, PruneConfig, defaults
from autosparse.errors import UserError
from autosparse.files import read_json, walk
from autosparse.store import TripleStore
from autosparse.store.schema import MARKER
from autosparse.store.sidecars import HISTORY, read_history
from autosparse.training import Recipe

# what a run's configuration says beside task and training
_VARIED = {*defaults(IRPConfig), *defaults(PruneConfig), "kind", "options", "autos", "criterion_code", "grad_batches"}
# of that, what has a column of its own, or decides nothing
_TOLD = {"kind", "options", "criterion", "sparsity", "sanity", "seed", "order_seed"}
_RESULT = {"prune": "result.json", "autos": CARD, "irp": f"triples.zarr/{MARKER}", "report": "index.html"}


def find(paths: Iterable[str | Path], kind: str) -> list[Path]:
    """Folders of complete runs of one kind (`irp`, `autos` or `prune`) at or below the paths, sorted."""
    return [folder for folder, found in _configured(paths) if found == kind and (folder / _RESULT[kind]).is_file()]


def find_unfinished(paths: Iterable[str | Path]) -> list[Path]:
    """Folders of runs that have not ended."""
    return [folder for folder, kind in _configured(paths) if kind and not (folder / _RESULT[kind]).is_file()]


def find_damaged(paths: Iterable[str | Path]) -> list[Path]:
    """Folders of runs whose configuration cannot be read, or is not there."""
    return [folder for folder, kind in _configured(paths) if kind is None]


def load(*paths: str | Path, damaged: list[str] | None = None) -> pd.DataFrame:
    """One row for each network pruned at initialization and trained, below the given folders.

    Columns: `criterion`, `sparsity`, `seed`, `network`, `dataset`, `same_initialization`, those of `compare.MEASURES`,
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
    """The folders of runs and their kinds; None where the configuration cannot be read, or is not there."""
    found = dict[Path, str | None]()
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"no runs at {path}")
        for folder, _, files in walk(path):
            if "config.yaml" not in files:
                if {"result.json", HISTORY} & {*files}:
                    found[folder.resolve()] = None
                continue
            try:
                kind = read_config(folder).get("kind")
            except UserError:
                found[folder.resolve()] = None
                continue
            if kind in _RESULT:
                found[folder.resolve()] = kind
    return sorted(found.items())
