"""The report of a set of runs: one page with their tables and figures, and the rows behind it."""

from pathlib import Path

import pandas as pd

from autosparse.autos import AutoS, Surface
from autosparse.autos.autos import CARD
from autosparse.autos.features import STORED
from autosparse.errors import UserError
from autosparse.files import read_json
from autosparse.store import TripleStore
from autosparse.study import figures, tables
from autosparse.study.document import LAYERS, Document
from autosparse.study.results import MEASURES, find, find_unfinished, load, load_irp

_CURVES = "Test accuracy after the last epoch against sparsity; what falls below the axis is cut off."
_MAP = "The score that AutoS gives a parameter, by its initial value and gradient in root mean squares of its network."
_TRUTH = "Survival of 20,000 parameters drawn at random: as it was, and as AutoS predicts it from theta and grad."


def write(runs: list[Path], output: Path) -> Path:
    """Write `index.html`, the same as `report.md`, `results.csv` and `figures/*.svg|png`; returns the page's path.

    Args:
        runs: folders of runs, or folders that hold them.
        output: where to write; what an earlier report left there is replaced file by file.

    Raises:
        UserError: no complete run of pruning or IRP among them, or results of different recipes.
    """
    pruned, irp = load(*runs), load_irp(*runs)
    if pruned.empty and irp.empty:
        raise UserError(
            f"nothing to report in {', '.join(map(str, runs))}; run launch/irp.py and launch/prune.py first"
        )
    document = Document("AutoSparse report", output)
    document.text(_counts(runs, pruned, irp))
    document.rows(pd.concat([frame for frame in (pruned, irp) if len(frame)]))
    settings = sorted({(row.network, row.dataset) for frame in (pruned, irp) for row in frame.itertuples()})
    for network, dataset in settings:
        _setting(document, _of(pruned, network, dataset), _of(irp, network, dataset), network, dataset)
    for folder in find(runs, "autos"):
        _autos(document, folder, find(runs, "irp"))
    if unfinished := find_unfinished(runs):
        document.heading("Not finished")
        for folder in unfinished:
            document.code(str(folder))
    return document.write()


def _setting(document: Document, pruned: pd.DataFrame, irp: pd.DataFrame, network: str, dataset: str) -> None:
    title, stem = f"{network} on {dataset}", f"{network}_{dataset}"
    document.heading(title)
    if pruned.empty:
        document.text("Test accuracy of every mask after the last epoch, %.")
        document.table(tables.iterations_table(irp))
        document.figure(figures.accuracy_curves(pruned, irp, title), f"{stem}_accuracy", _CURVES)
        return
    for measure, meaning in MEASURES.items():
        if pruned[measure].isna().all():
            continue
        dense = tables.dense_accuracy(irp, measure)
        over = f"mean ± deviation over seeds {_seeds(pruned)}; dense: {dense}"
        document.text(f"{meaning[0].upper()}{meaning[1:]}, %; {over}.")
        document.table(tables.accuracy_table(pruned, irp, measure))
    empty = pruned[pruned["empty_layers"].map(len) > 0]
    if len(empty):
        collapsed = sorted({f"{row.criterion} at {100 * row.sparsity:g}%" for row in empty.itertuples()})
        document.note(f"Layers without any weight left: {', '.join(collapsed)}.")
    document.figure(figures.accuracy_curves(pruned, irp, title), f"{stem}_accuracy", _CURVES)
    document.figure(figures.layer_densities(pruned, title), f"{stem}_layers", LAYERS)


def _autos(document: Document, folder: Path, irp_runs: list[Path]) -> None:
    autos, config = AutoS.load(folder), read_json(folder / CARD)
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
    document.heading(f"AutoS: {folder.name}")
    document.text(
        "How well the predictions fit the tenth of the triples that was held out. Overlap: the share of the kept "
        "parameters that survival keeps too; by chance it would be the density."
    )
    document.table(pd.DataFrame(rows).set_index("labels from"))
    surface = Surface.load(folder) if Surface.is_in(folder) else None
    document.figure(figures.learned_map(autos, surface), f"autos_{folder.name}_map", _MAP)
    if autos.features.columns != STORED:
        return
    fitted_to = {run["fingerprint"] for run in config["card"]["runs"]}
    store = next((s for s in map(TripleStore.open, irp_runs) if s.fingerprint in fitted_to), None)
    if store is None:
        document.note("The runs it was fitted to are not among those reported.")
        return
    document.figure(figures.truth_and_prediction(autos, store), f"autos_{folder.name}_truth", _TRUTH)


def _of(frame: pd.DataFrame, network: str, dataset: str) -> pd.DataFrame:
    return frame[(frame["network"] == network) & (frame["dataset"] == dataset)] if len(frame) else frame


def _seeds(pruned: pd.DataFrame) -> str:
    return ", ".join(map(str, sorted(pruned["seed"].unique())))


def _counts(runs: list[Path], pruned: pd.DataFrame, irp: pd.DataFrame) -> str:
    n = irp["folder"].nunique() if len(irp) else 0
    folders = [str(run) for run in runs] if len(runs) < 4 else sorted({str(run.parent) for run in runs})
    names = ", ".join(folders)
    return f"Runs of iterative pruning: {n}; of pruning at initialization: {len(pruned)}; from {names}."
