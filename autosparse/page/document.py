"""A document of blocks, written as one HTML page that needs nothing else and as Markdown."""

import base64
import gzip
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from autosparse.files import replacing, write_text
from autosparse.page.chart import COLORS, DARK, LIGHT, MARKERS, SHADES, Chart, library, theme

_LARGEST = 400_000  # bytes of a figure's SVG in the page; a larger figure is a PNG


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of two runs that a reader chooses."""

    runs: Mapping[str, Mapping[str, Any]]
    """For each run by name: its `options`, its `curve` (a row of the chart) and, where it has one, its `mask`."""
    networks: Sequence[Mapping[str, Any]]
    """Layers of the masks, by the number that a mask has as its `network`."""
    chart: Chart
    """The curves, whose rows the page's script fills in; a row has also `series` (the run) and `side` (0 or 1)."""
    curves: Mapping[str, str]
    """Labels of the values of the parameter `curve`."""


class Document:
    """Collects blocks; `write` makes `index.html`, `report.md` and the folder `figures` of them.

    Args:
        folder: folder to write to; files of an earlier report are replaced one by one.
        title: title of the page.
    """

    def __init__(self, folder: Path, title: str = "AutoSparse report") -> None:
        self.folder, self._title = folder, title
        self._blocks: list[dict[str, Any]] = []
        self._markdown = [f"# {title}"]
        self._rows: pd.DataFrame | None = None
        self._comparison: Comparison | None = None
        self._numbers = dict[str, int]()

    def number(self, names: Iterable[str]) -> dict[str, int]:
        """Return the numbers of the colors and markers of series; a name has the same number in the whole page."""
        return {name: self._numbers.setdefault(name, len(self._numbers)) for name in names}

    def facts(self, *facts: str) -> None:
        """Add short remarks in one line, each of which is not broken into lines unless it must be."""
        self._add("facts", " · ".join(facts), facts=facts)

    def heading(self, text: str, level: int = 2) -> None:
        """Add a heading; the title has level 1."""
        self._add("heading", f"{'#' * level} {text}", text=text, level=level)

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._add("text", text, text=text)

    def lead(self, text: str) -> None:
        """Add a paragraph in larger letters."""
        self._add("lead", text, text=text)

    def note(self, text: str) -> None:
        """Add a remark in smaller letters."""
        self._add("note", text, text=text)

    def code(self, text: str) -> None:
        """Add a command."""
        self._add("code", f"    {text}", text=text)

    def table(self, frame: pd.DataFrame, caption: str = "") -> None:
        """Add a table whose first column is the index; cells may be **bold** as in Markdown."""
        self._add("table", f"{caption}\n\n{markdown(frame)}".strip(), caption=caption, grid=_grid(frame))

    def tables(self, choices: Mapping[str, tuple[str, pd.DataFrame]], name: str = "measure") -> None:
        """Add tables with captions, of which the page shows that of the switch's value."""
        self.choice({value: partial(self.table, frame, caption) for value, (caption, frame) in choices.items()}, name)

    def choice(self, parts: Mapping[str, Callable[[], object]], name: str) -> None:
        """Add the blocks of every part; the page shows the part that the switch `name` has chosen."""
        self._blocks.append({"kind": "choice", "name": name})
        for value, add in parts.items():
            self._blocks.append({"kind": "part", "value": value})
            add()
            self._blocks.append({"kind": "end"})
        self._blocks.append({"kind": "end"})

    def switch(self, label: str, choices: Mapping[str, str], name: str = "measure") -> None:
        """Add a switch that all charts and choices of that name follow; nothing if it has only one value.

        `choices` has the label of each value, the initial value first.
        """
        if len(choices) > 1:
            self._blocks.append({"kind": "switch", "label": label, "choices": choices, "name": name})

    def chart(self, chart: Chart, name: str, caption: str) -> None:
        """Add a chart, which `write` saves as `figures/NAME.svg` and `figures/NAME.png`, too."""
        self._add("chart", f"![{caption}](figures/{name}.png)\n\n{caption}", chart=chart, name=name, caption=caption)

    def rows(self, *frames: pd.DataFrame) -> None:
        """Add the rows of all results, which `write` saves as `results.csv`."""
        self._rows = pd.concat([frame for frame in frames if len(frame)])
        self._markdown.append("All rows: [results.csv](results.csv).")

    def runs(
        self, table: pd.DataFrame, caption: str, comparison: Comparison, metrics: Mapping[str, str] | None = None
    ) -> None:
        """Add the table of runs, which a reader can sort and filter, and the comparison of two of them.

        Columns that are the same for all runs are left out; columns of numbers are aligned to the right. `metrics` has
        the values of the switch `metric` by the columns that are shown with one value alone.
        """
        table = table.loc[:, table.nunique(dropna=False) > 1] if len(table) > 1 else table
        numbers = [pd.api.types.is_numeric_dtype(table[column]) for column in table]
        rows = [
            (name, [(_shown(v), "" if pd.isna(v) else v, number) for v, number in zip(values, numbers, strict=True)])
            for name, values in zip(table.index, table.to_numpy(object), strict=True)
        ]
        heads = [(column, number, (metrics or {}).get(column)) for column, number in zip(table, numbers, strict=True)]
        plain = f"{caption}\n\n{markdown(table.astype(object).map(_shown))}".strip()
        self._comparison = comparison
        self._add("runs", plain, caption=caption, heads=heads, rows=rows, curves=comparison.curves)

    def logs(self, logs: Mapping[str, tuple[str, Sequence[str] | None]]) -> None:
        """Add the folder and the last lines of the log of each run, by its name; the table of runs links to them."""
        self._blocks.append({"kind": "logs", "logs": logs})

    def write(self, live: bool = False) -> Path:
        """Write the page, the Markdown, the figures and the rows; return the path of the page.

        A live page follows the file that a server writes again; browsers draw its figures, and none are saved.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._rows is not None:
            with replacing(self.folder / "results.csv") as temporary:
                self._rows.to_csv(temporary, index=False)
        charts = {k: block for k, block in enumerate(self._blocks) if block["kind"] == "chart"}
        for block in () if live else charts.values():
            png = block["chart"].save(self.folder / "figures" / block["name"])
            pictures = block["chart"].pictures()
            if sum(len(picture["wide"] + picture["narrow"]) for picture in pictures) <= _LARGEST:
                block["pictures"] = pictures
            else:
                block["picture"] = _embedded(png)
        environment = Environment(
            loader=PackageLoader("autosparse.page", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= {"bold": _bold, "inline": _inline}
        drawn = {str(k): block["chart"] for k, block in charts.items()}
        compared = self._comparison
        if compared:
            drawn["pair"] = compared.chart
        data: dict[str, Any] = {
            "theme": theme(),
            "shades": SHADES,
            "charts": {k: chart.to_json() for k, chart in drawn.items()},
        }
        data |= {"runs": compared.runs, "networks": compared.networks} if compared else {}
        page = environment.get_template("page.html").render(
            title=self._title,
            blocks=self._blocks,
            live=live,
            style=_asset("page.css"),
            script=_asset("page.js"),
            library=Markup(library()) if drawn else "",
            data=_packed(data),
            colors=COLORS,
            palettes=[("all", LIGHT), ("screen and (prefers-color-scheme: dark)", DARK)],
            markers=MARKERS,
        )
        write_text(self.folder / "index.html", page)
        write_text(self.folder / "report.md", "\n\n".join(self._markdown) + "\n")
        return self.folder / "index.html"

    def _add(self, kind: str, plain: str, **block: Any) -> None:
        self._blocks.append({"kind": kind, **block})
        self._markdown.append(plain)


def markdown(table: pd.DataFrame) -> str:
    """Return a data frame as a Markdown table whose first column is the index."""
    header, *rows = [[cell.replace("|", "\\|") for cell in row] for row in _grid(table)]
    lines = [header, ["---", *["---:"] * len(table.columns)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def bar(done: str) -> Markup:
    """Return a bar for a table cell; `done` is a percentage such as 45%."""
    return Markup('<progress max="100" value="{}"></progress> {}').format(done.rstrip("%"), done)


def sparkline(values: Sequence[float | None]) -> Markup:
    """Return a small curve for a table cell, and its last value; empty without values."""
    known = [value for value in values if value is not None]
    if not known:
        return Markup()
    low, high = min(known), max(known)
    steps = [(value - low) / ((high - low) or 1) for value in known]
    points = " ".join(f"{60 * k / max(1, len(steps) - 1):.1f},{15 - 14 * step:.1f}" for k, step in enumerate(steps))
    line = '<svg class="spark" viewBox="-2 -1 64 18" aria-hidden="true"><polyline points="{}"/></svg> {}'
    return Markup(line).format(points, f"{known[-1]:.4g}")


def _grid(table: pd.DataFrame) -> list[list[str]]:
    """Return header and rows as strings, the index as the first column."""
    header = [str(table.index.name or ""), *map(str, table.columns)]
    values: list[list[Any]] = table.to_numpy().tolist()
    return [header, *([str(name), *map(str, row)] for name, row in zip(table.index, values, strict=True))]


def _packed(data: dict[str, Any]) -> str:
    """Return compressed JSON as text; the rows of charts repeat the same words a thousand times."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _asset(name: str) -> Markup:
    return Markup(files(__package__).joinpath(name).read_text())


def _embedded(png: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}"


def _inline(svg: str, prefix: str) -> Markup:
    """Return an SVG whose ids begin with a prefix, because all pictures of a page share one set of ids."""
    return Markup(re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", svg))


def _bold(text: str) -> Markup:
    """Turn **bold** into HTML."""
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(text))))


def _shown(value: Any) -> str:
    """Format a cell: numbers with four digits, a dash for a missing value; HTML is left as it is."""
    if pd.isna(value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, Markup) else str(value)
