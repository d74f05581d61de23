"""Results as data frames: gathered from the folders of runs, each of which holds its own as JSON."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from autosparse.autos.autos import CARD
from autosparse.cluster.provenance import read_config
from autosparse.errors import UserError
from autosparse.files import read_json
from autosparse.store.schema import MARKER

_RESULT = {"prune": "result.json", "autos": CARD, "irp": f"triples.zarr/{MARKER}", "report": "index.html"}
MEASURES = {
    "accuracy": "test accuracy after the last epoch",
    "accuracy_best_validation": "test accuracy after the epoch best on the validation split",
    "accuracy_best_test": "maximum over epochs of the test accuracy (the paper's figure; the test set chose the epoch)",
}


def find(paths: Iterable[str | Path], kind: str) -> list[Path]:
    """Folders of complete runs of one kind (`irp`, `autos` or `prune`) at or below the paths, sorted."""
    return [folder for folder, found in _configured(paths) if found == kind and (folder / _RESULT[kind]).is_file()]


def find_unfinished(paths: Iterable[str | Path]) -> list[Path]:
    """Folders of runs that have not ended."""
    return [folder for folder, kind in _configured(paths) if not (folder / _RESULT[kind]).is_file()]


def is_complete(folder: Path) -> bool:
    """Whether a run's folder has its output."""
    return (folder / _RESULT[read_config(folder)["kind"]]).is_file()


def load(*paths: str | Path) -> pd.DataFrame:
    """One row for each network pruned at initialization and trained, below the given folders.

    Columns: `criterion`, `sparsity`, `seed`, `network`, `dataset`, `same_initialization`, the accuracies of `MEASURES`,
    `density`, `kept`, `parameters`, `empty_layers`, `layer_densities`, `recipe` (JSON), seconds, `folder`.

    Raises:
        UserError: a result that cannot be read.
    """
    return pd.DataFrame([_pruned(folder) for folder in find(paths, "prune")])


def load_irp(*paths: str | Path) -> pd.DataFrame:
    """One row for each mask of each run of IRP: the accuracy of the network trained with it from its own weights.

    Columns as in `load`, with `iteration`, and `criterion` as `irp-<criterion>`.
    """
    rows = []
    for folder in find(paths, "irp"):
        config = read_config(folder)
        common = {key: config[key] for key in ("network", "dataset", "seed")}
        for mask in read_json(folder / "history.json"):
            rows.append(
                {
                    **common,
                    "criterion": f"irp-{config['criterion']}",
                    "recipe": _protocol(config),
                    "sparsity": 1.0 - mask["density"],
                    "folder": str(folder),
                    **mask,
                }
            )
    return pd.DataFrame(rows)


def _pruned(folder: Path) -> dict[str, Any]:
    result = read_json(folder / "result.json")
    try:
        seconds = result.pop("seconds")
        for key in ("history", "versions", "kind"):
            result.pop(key)
        label = f"{result['criterion']} (same init)" if result["same_initialization"] else result["criterion"]
        label += "" if result["sanity"] == "none" else f", {result['sanity']}"
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'result.json'} is damaged; run the same launch/prune.py again") from error
    return {
        **result,
        "criterion": label,
        "recipe": _protocol(result),
        **{f"seconds_{key}": value for key, value in seconds.items()},
        "folder": str(folder),
    }


def _protocol(config: dict[str, Any]) -> str:
    """Everything about training that must be the same within a table."""
    return json.dumps({**config["recipe"], "validation": config["validation"], "fan": config["fan"]}, sort_keys=True)


def _configured(paths: Iterable[str | Path]) -> list[tuple[Path, str]]:
    found = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"no runs at {path}")
        for config in [path / "config.yaml", *path.rglob("config.yaml")]:
            if config.is_file() and (kind := read_config(config.parent).get("kind")) in _RESULT:
                found[config.parent.resolve()] = kind
    return sorted(found.items())
