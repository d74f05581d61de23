"""Reports: documents in the making, and the one that shows whatever a set of runs has brought."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from autosparse.autos import AutoS, Surface
from autosparse.autos.autos import CARD
from autosparse.autos.features import STORED
from autosparse.cluster.outcome import say
from autosparse.errors import UserError
from autosparse.files import read_json, replacing, write_text
from autosparse.metrics import factor, label
from autosparse.store import TripleStore
from autosparse.study import figures, results

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .6rem 0 1.4rem }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd }
td, th:not(:first-child) { text-align: right } td:first-child, th:first-child { text-align: left }
img { max-width: 100% } figure { margin: 1.2rem 0 }
h2 { margin-top: 2.4rem } .note { color: #666; font-size: 13px } code { font-size: 13px }
"""

_CURVES = "The test metric after the last epoch against sparsity; what falls below the axis is cut off."
_MAP = "The score that AutoS gives a parameter, by its first two features in root mean squares of its network."
_TRUTH = "Survival of 20,000 parameters drawn at random: as it was, and as AutoS predicts it from theta and grad."
LAYERS = "Share of each layer's weights that is kept, from the input to the output, mean over seeds."


class Document:
    """Collects blocks; `write` makes `index.html` and `report.md` of them, beside the folder `figures`.

    Args:
        folder: where to write; what an earlier report left there is replaced file by file.
        title: what the page is called.
    """

    def __init__(self, folder: Path, title: str = "AutoSparse report") -> None:
        self.folder, self._title = folder, title
        self._html, self._markdown = [f"<h1>{escape(title)}</h1>"], [f"# {title}"]

    def heading(self, text: str, level: int = 2) -> None:
        """A heading; the title has level 1."""
        self._html.append(f"<h{level}>{escape(text)}</h{level}>")
        self._markdown.append(f"{'#' * level} {text}")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._html.append(f"<p>{escape(text)}</p>")
        self._markdown.append(text)

    def note(self, text: str) -> None:
        """A remark, in smaller letters."""
        self._html.append(f'<p class="note">{escape(text)}</p>')
        self._markdown.append(text)

    def code(self, text: str) -> None:
        """A command."""
        self._html.append(f"<p><code>{escape(text)}</code></p>")
        self._markdown.append(f"    {text}")

    def table(self, frame: pd.DataFrame) -> None:
        """A table, its index as the first column; **bold** as in Markdown."""
        html = frame.reset_index().to_html(index=False, border=0)
        self._html.append(re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html))
        self._markdown.append(results.markdown(frame).rstrip())

    def rows(self, *frames: pd.DataFrame) -> None:
        """All results, as `results.csv`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / "results.csv") as temporary:
            pd.concat([frame for frame in frames if len(frame)]).to_csv(temporary, index=False)
        self._html.append('<p>All rows: <a href="results.csv">results.csv</a>.</p>')
        self._markdown.append("All rows: [results.csv](results.csv).")

    def figure(self, figure: Figure, name: str, caption: str) -> None:
        """A figure, saved as SVG and PNG."""
        path = figures.save(figure, self.folder / "figures" / name)
        image = f'<a href="figures/{name}.svg"><img src="figures/{path.name}" alt="{escape(caption)}"></a>'
        self._html.append(f'<figure>{image}<figcaption class="note">{escape(caption)}</figcaption></figure>')
        self._markdown.append(f"![{caption}](figures/{path.name})\n\n{caption}")

    def write(self) -> Path:
        """Write the pages; returns the path of the HTML."""
        head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(self._title)}</title>'
        write_text(self.folder / "index.html", f"{head}<style>{_STYLE}</style>" + "\n".join(self._html) + "</html>\n")
        write_text(self.folder / "report.md", "\n\n".join(self._markdown) + "\n")
        return self.folder / "index.html"


def overview(document: Document, runs: Sequence[Path]) -> None:
    """Add all that a set of runs has brought, by network and data set, then by AutoS.

    Raises:
        UserError: there is no complete run of pruning or IRP among them, or their recipes differ.
    """
    damaged = [f"{folder}/config.yaml is damaged" for folder in results.find_damaged(runs)]
    pruned, irp = results.load(*runs, damaged=damaged), results.load_irp(*runs, damaged=damaged)
    if pruned.empty and irp.empty:
        where = ", ".join(map(str, runs))
        raise UserError(
            "; ".join(damaged) or f"nothing to report in {where}; run autosparse irp and autosparse prune first"
        )
    document.text(_counts(runs, pruned, irp))
    document.rows(pruned, irp)
    settings = sorted({(row.network, row.dataset) for frame in (pruned, irp) for row in frame.itertuples()})
    for network, dataset in settings:
        _setting(document, _of(pruned, network, dataset), _of(irp, network, dataset), network, dataset)
    for folder in results.find(runs, "autos"):
        try:
            _autos(document, folder, [Path(each) for each in irp["folder"].unique()] if len(irp) else [])
        except UserError as error:
            damaged.append(str(error))
    if damaged:
        document.heading("Damaged, and left out")
        for line in damaged:
            document.text(line)
            say(f"left out: {line}")
    if unfinished := results.find_unfinished(runs):
        document.heading("Not finished")
        for folder in unfinished:
            document.code(str(folder))


def _setting(document: Document, pruned: pd.DataFrame, irp: pd.DataFrame, network: str, dataset: str) -> None:
    title, stem = f"{network} on {dataset}", f"{network}_{dataset}"
    document.heading(title)
    if pruned.empty:
        metric = label(results.metric_of(irp)[0])
        document.text(f"Test {metric}, of every mask after the last epoch.")
        document.table(results.iterations_table(irp))
        document.figure(figures.accuracy_curves(pruned, irp, title), f"{stem}_accuracy", _CURVES)
        return
    metric, _ = results.metric_of(pruned, irp)
    unit = ", %" if factor(metric) > 1 else ""
    for measure, meaning in results.MEASURES.items():
        if pruned[measure].isna().all():
            continue
        dense = results.dense_accuracy(irp, measure)
        over = f"mean ± deviation over seeds {_seeds(pruned)}; dense: {dense}; cost in trainings"
        named = meaning.format(metric)
        document.text(f"{named[0].upper()}{named[1:]}{unit}; {over}.")
        document.table(results.accuracy_table(pruned, irp, measure))
    empty = pruned[pruned["empty_layers"].map(len) > 0]
    if len(empty):
        collapsed = sorted({f"{row.criterion} at {100 * row.sparsity:g}%" for row in empty.itertuples()})
        document.note(f"Layers without any weight left: {', '.join(collapsed)}.")
    document.figure(figures.accuracy_curves(pruned, irp, title), f"{stem}_accuracy", _CURVES)
    document.figure(figures.layer_densities(pruned, title), f"{stem}_layers", LAYERS)


def _autos(document: Document, folder: Path, irp_runs: Sequence[Path]) -> None:
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
    if len(autos.features.columns) > 1:
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


def _counts(runs: Sequence[Path], pruned: pd.DataFrame, irp: pd.DataFrame) -> str:
    n = irp["folder"].nunique() if len(irp) else 0
    folders = [str(run) for run in runs] if len(runs) < 4 else sorted({str(run.parent) for run in runs})
    names = ", ".join(folders)
    return f"Runs of iterative pruning: {n}; of pruning at initialization: {len(pruned)}; from {names}."
