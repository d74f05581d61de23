"""Runs as a report shows them: a row of its table, and a page each with all that the folder says."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from autosparse.autos.autos import CARD
from autosparse.cluster.provenance import read_config
from autosparse.errors import UserError
from autosparse.files import read_json, read_record
from autosparse.metrics import factor
from autosparse.options import SECTION
from autosparse.page import Chart, Run
from autosparse.store import TripleStore
from autosparse.store.sidecars import read_history
from autosparse.study import curves, results

_LINES = 25  # of a log's end
_COMMANDS = {"prune": "prune", "irp": "irp", "autos": "fit"}


def gather(folders: Sequence[Path], damaged: list[str] | None = None) -> list[Run]:
    """All complete runs at or below some folders.

    Args:
        folders: of runs, or folders that hold them.
        damaged: gets a line for each run that cannot be read, which is left out then.

    Raises:
        UserError: a run that cannot be read, where `damaged` is not given.
    """
    found = []
    for kind, read in (("irp", _irp), ("autos", _autos), ("prune", _prune)):
        for folder in results.find(folders, kind):
            try:
                found.append(read(folder))
            except UserError as error:
                if damaged is None:
                    raise
                damaged.append(str(error))
    return found


def _prune(folder: Path) -> Run:
    (row,) = results.load(folder).to_dict("records")
    layers = pd.DataFrame(
        {"density, %": {name: f"{100 * share:.3g}" for name, share in row["layer_densities"].items()}}
    )
    kept = f"{row['kept']:,} of {row['parameters']:,} weights are kept"
    tables = {f"Mask by layer: {kept}": layers.rename_axis("layer")}
    history = read_json(folder / "result.json")["history"]
    return _pruning(folder, "prune", row, tables, curves.one_training(history, row["metric"]))


def _irp(folder: Path) -> Run:
    config, store = read_config(folder), TripleStore.open(folder)
    history = read_history(folder, store.ledger.sidecars)
    last = history[-1]
    metric = last["metric"]
    masks = pd.DataFrame(
        {
            "density, %": [f"{100 * row['density']:.3g}" for row in history],
            "loss": [f"{row['loss']:.4g}" for row in history],
            f"test {metric}": [f"{factor(metric) * row['test']:.4g}" for row in history],
        },
        index=pd.Index([row["iteration"] for row in history], name="iteration"),
    )
    row = config | last | {"sparsity": 1.0 - last["density"], "cost": len(history)}
    return _pruning(folder, "irp", row, {"Masks": masks}, curves.masks_of(history, metric))


def _pruning(folder: Path, kind: str, row: Mapping[Any, Any], tables: Mapping[str, pd.DataFrame], chart: Chart) -> Run:
    """A run that has pruned a network; of IRP, what its last mask is and reached."""
    times = factor(row["metric"])
    best_validation = row["test_best_validation"]
    cells: dict[str, str | float | None] = {
        "kind": kind,
        "network": row["network"],
        "data": row["dataset"],
        "criterion": row["criterion"],
        "sparsity, %": 100.0 * row["sparsity"],
        "seed": float(row["seed"]),
        "cost": float(row["cost"]),
        "metric": row["metric"],
        "last epoch": times * row["test"],
        "best by validation": None if best_validation is None else times * best_validation,
        "best epoch": times * row["test_best"],
    }
    return Run(
        name=folder.name,
        label=folder.name.removeprefix(f"{cells['network']}_{cells['data']}_"),
        cells=cells,
        texts=_texts(folder),
        tables=tables,
        chart=chart,
    )


def _autos(folder: Path) -> Run:
    card = read_json(folder / CARD)["card"]
    fitted = "\n".join(Path(of["run"]).name for of in card["held_out"])
    by = f"{card['fit']['backbone']} of {', '.join(card['fit']['features'])}"
    cells: dict[str, str | float | None] = {"kind": "autos", "criterion": by, "seed": float(card["fit"]["seed"])}
    return Run(
        name=folder.name,
        label=folder.name,
        cells=cells,
        texts={"Fitted to": fitted, **_texts(folder)},
        chart=curves.losses_of(card["losses"]),
    )


def _texts(folder: Path) -> dict[str, str]:
    """The command, the configuration, the environment and the end of the log, as far as they are there."""
    config = folder / "config.yaml"
    environment = read_record(folder / "environment.json")
    asked = read_config(folder)
    command = environment.pop("command", None)
    said = {"Command that made it": shlex.join(command) if command else ""}
    if SECTION in asked:
        said["This run alone"] = f"autosparse {_COMMANDS[asked['kind']]} --config {config}"
    if (log := folder / "logs" / "rank0.log").is_file():
        said["End of the log"] = "\n".join(log.read_text(errors="replace").splitlines()[-_LINES:])
    said["Environment"] = "\n".join(f"{key}: {_flat(value)}" for key, value in environment.items() if value)
    said["Configuration"] = config.read_text()
    return {"Folder": str(folder)} | {heading: text.rstrip() for heading, text in said.items() if text.strip()}


def _flat(value: Any) -> str:
    """A value of the environment on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
