"""The report: one page with the tables and figures of a set of runs, and the files behind it."""

from html import escape
from pathlib import Path

import pandas as pd

from autosparse.autos import AutoS
from autosparse.autos.network import CARD
from autosparse.errors import UserError
from autosparse.files import read_json, write_text
from autosparse.store import TripleStore
from autosparse.study import figures, tables
from autosparse.study.results import MEASURES, find, find_unfinished, load, load_irp

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .6rem 0 1.4rem }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd }
td, th:not(:first-child) { text-align: right } td:first-child, th:first-child { text-align: left }
img { max-width: 100% } figure { margin: 1.2rem 0 }
h2 { margin-top: 2.4rem } .note { color: #666; font-size: 13px } code { font-size: 13px }
"""

_CURVES = "Test accuracy after the last epoch against sparsity; what falls below the axis is cut off."
_LAYERS = "Share of each layer's weights that is kept, from the input to the output, mean over seeds."
_MAP = "The score that AutoS gives a parameter, by its initial value and gradient in root mean squares of its network."
_TRUTH = "Survival of 20,000 parameters drawn at random: as it was, and as AutoS predicts it from theta and grad."


def write(runs: list[Path], output: Path) -> Path:
    """Write `index.html`, `results.csv`, `tables/*.md` and `figures/*.svg|png`; returns the page's path.

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
    output.mkdir(parents=True, exist_ok=True)
    pd.concat([frame for frame in (pruned, irp) if len(frame)]).to_csv(output / "results.csv", index=False)
    body = ["<h1>AutoSparse report</h1>", _counts(runs, pruned, irp)]
    settings = sorted({(row.network, row.dataset) for frame in (pruned, irp) for row in frame.itertuples()})
    for network, dataset in settings:
        body += _setting(_of(pruned, network, dataset), _of(irp, network, dataset), network, dataset, output)
    for folder in find(runs, "autos"):
        body += _autos(folder, find(runs, "irp"), output)
    if unfinished := find_unfinished(runs):
        body.append(
            "<h2>Not finished</h2><ul>" + "".join(f"<li><code>{escape(str(f))}</code></li>" for f in unfinished)
        )
        body.append("</ul>")
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>AutoSparse report</title><style>{_STYLE}</style>'
    )
    write_text(output / "index.html", page + "\n".join(body) + "</html>\n")
    return output / "index.html"


def _setting(pruned: pd.DataFrame, irp: pd.DataFrame, network: str, dataset: str, output: Path) -> list[str]:
    title, stem = f"{network} on {dataset}", f"{network}_{dataset}"
    body = [f"<h2>{escape(title)}</h2>"]
    if pruned.empty:
        table = tables.iterations_table(irp)
        write_text(output / "tables" / f"{stem}.md", f"# {title}\n\n{tables.markdown(table)}")
        curve = figures.save(figures.accuracy_curves(pruned, irp, title), output / "figures" / f"{stem}_accuracy")
        return [
            *body,
            "<p>Test accuracy of every mask after the last epoch, %.</p>",
            _html(table),
            _image(curve, _CURVES),
        ]
    text = []
    for measure, meaning in MEASURES.items():
        if pruned[measure].isna().all():
            continue
        table = tables.accuracy_table(pruned, irp, measure)
        dense = tables.dense_accuracy(irp, measure)
        note = f"{meaning[0].upper()}{meaning[1:]}, %; mean ± deviation over seeds {_seeds(pruned)}; dense: {dense}."
        body += [f"<p>{escape(note)}</p>", _html(table)]
        text.append(f"{note}\n\n{tables.markdown(table)}")
    write_text(output / "tables" / f"{stem}.md", f"# {title}\n\n" + "\n".join(text))
    empty = pruned[pruned["empty_layers"].map(len) > 0]
    if len(empty):
        collapsed = sorted({f"{row.criterion} at {100 * row.sparsity:g}%" for row in empty.itertuples()})
        body.append(f'<p class="note">Layers without any weight left: {escape(", ".join(collapsed))}.</p>')
    folder = output / "figures"
    curves = figures.save(figures.accuracy_curves(pruned, irp, title), folder / f"{stem}_accuracy")
    layers = figures.save(figures.layer_densities(pruned, title), folder / f"{stem}_layers")
    return [*body, _image(curves, _CURVES), _image(layers, _LAYERS)]


def _autos(folder: Path, irp_runs: list[Path], output: Path) -> list[str]:
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
    fitted_to = {run["fingerprint"] for run in config["card"]["runs"]}
    stem = output / "figures" / f"autos_{folder.name}"
    body = [
        f"<h2>AutoS: {escape(folder.name)}</h2>",
        "<p>How well the predictions fit the tenth of the triples that was held out. Overlap: the share of the kept "
        "parameters that survival keeps too; by chance it would be the density.</p>",
        _html(pd.DataFrame(rows).set_index("labels from")),
        _image(figures.save(figures.learned_map(autos), Path(f"{stem}_map")), _MAP),
    ]
    store = next((s for s in map(TripleStore.open, irp_runs) if s.fingerprint in fitted_to), None)
    if store is None:
        return [*body, '<p class="note">The runs it was fitted to are not among those reported.</p>']
    truth = figures.save(figures.truth_and_prediction(autos, store), Path(f"{stem}_truth"))
    return [*body, _image(truth, _TRUTH)]


def _of(frame: pd.DataFrame, network: str, dataset: str) -> pd.DataFrame:
    return frame[(frame["network"] == network) & (frame["dataset"] == dataset)] if len(frame) else frame


def _seeds(pruned: pd.DataFrame) -> str:
    return ", ".join(map(str, sorted(pruned["seed"].unique())))


def _counts(runs: list[Path], pruned: pd.DataFrame, irp: pd.DataFrame) -> str:
    n = irp["folder"].nunique() if len(irp) else 0
    folders = [str(run) for run in runs] if len(runs) < 4 else sorted({str(run.parent) for run in runs})
    names = ", ".join(f"<code>{escape(folder)}</code>" for folder in folders)
    return (
        f"<p>Runs of iterative pruning: {n}; of pruning at initialization: {len(pruned)}; from {names}. "
        f'All rows: <a href="results.csv">results.csv</a>.</p>'
    )


def _html(table: pd.DataFrame) -> str:
    return table.reset_index().to_html(index=False, border=0)


def _image(path: Path, caption: str) -> str:
    image = f'<a href="figures/{path.stem}.svg"><img src="figures/{path.name}" alt="{escape(caption)}"></a>'
    return f'<figure>{image}<figcaption class="note">{escape(caption)}</figcaption></figure>'
