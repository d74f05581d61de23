"""A document in the making: blocks, written as one HTML page that needs nothing else and as Markdown."""

import base64
import gzip
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from autosparse.files import replacing, write_text
from autosparse.page.chart import COLORS, MARKERS, Chart, library, theme
from autosparse.page.tables import grid, markdown


@dataclass(frozen=True, kw_only=True)
class Run:
    """A row of the table of runs, and what its own page shows."""

    name: str
    """The title of its page."""
    label: str
    """Its name in the table, where the other columns say the rest."""
    cells: Mapping[str, str | float | None]
    """The row, by column; the label stands before it."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Commands, files and logs, by heading."""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Tables, by heading."""
    chart: Chart | None = None
    """A picture."""


class Document:
    """Collects blocks; `write` makes `index.html` and `report.md` of them, beside the folder `figures`.

    Args:
        folder: where to write; what an earlier report left there is replaced file by file.
        title: what the page is called.
    """

    def __init__(self, folder: Path, title: str = "AutoSparse report") -> None:
        self.folder, self._title = folder, title
        self._blocks: list[dict[str, Any]] = []
        self._markdown = [f"# {title}"]
        self._charts: list[Chart] = []
        self._runs: Sequence[Run] = ()

    def heading(self, text: str, level: int = 2) -> None:
        """A heading; the title has level 1."""
        self._add("heading", f"{'#' * level} {text}", text=text, level=level, id=f"part-{len(self._blocks)}")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._add("text", text, text=text)

    def note(self, text: str) -> None:
        """A remark, in smaller letters."""
        self._add("note", text, text=text)

    def code(self, text: str) -> None:
        """A command."""
        self._add("code", f"    {text}", text=text)

    def table(self, frame: pd.DataFrame, caption: str = "") -> None:
        """A table, its index as the first column; **bold** as in Markdown."""
        self._table(caption, frame)

    def tables(self, choices: Mapping[str, tuple[str, pd.DataFrame]], name: str = "measure") -> None:
        """Tables of which the page shows one.

        Args:
            choices: caption and table by the value at which it is shown.
            name: of the switch that has these values.
        """
        self.choice({value: partial(self._table, *found) for value, found in choices.items()}, name)

    def choice(self, parts: Mapping[str, Callable[[], object]], name: str) -> None:
        """Add parts of which the page shows one, at first the first.

        Args:
            parts: for each value at which a part is shown, a function that adds its blocks.
            name: name of the switch that has these values.
        """
        self._blocks.append({"kind": "choice", "name": name})
        for value, add in parts.items():
            self._blocks.append({"kind": "part", "value": value})
            add()
            self._blocks.append({"kind": "end"})
        self._blocks.append({"kind": "end"})

    def switch(self, label: str, choices: Mapping[str, str], name: str = "measure") -> None:
        """A choice that all charts and tables of the page follow.

        Args:
            label: what is chosen.
            choices: labels by value, the first is chosen at first.
            name: of the charts' parameter, and the tables' switch.
        """
        if len(choices) > 1:
            self._blocks.append({"kind": "switch", "label": label, "choices": choices, "name": name})

    def chart(self, chart: Chart, name: str, caption: str) -> None:
        """A chart, also saved as SVG and PNG under `figures/NAME`."""
        picture = chart.save(self.folder / "figures" / name)
        text = f"![{caption}](figures/{name}.png)\n\n{caption}"
        self._add("chart", text, number=len(self._charts), chart=chart, picture=_embedded(picture), caption=caption)
        self._charts.append(chart)

    def rows(self, *frames: pd.DataFrame) -> None:
        """All results, as `results.csv`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / "results.csv") as temporary:
            pd.concat([frame for frame in frames if len(frame)]).to_csv(temporary, index=False)
        self._markdown.append("All rows: [results.csv](results.csv).")

    def runs(self, runs: Sequence[Run]) -> None:
        """A table of runs that is sorted and filtered, each with a page of its own.

        Columns that say the same of all of them are left to these.
        """
        self._runs = runs
        columns = [
            column
            for column in dict.fromkeys(column for run in runs for column in run.cells)
            if len(runs) == 1 or len({run.cells[column] for run in runs if run.cells.get(column) is not None}) > 1
        ]
        numbers = {column for column in columns if any(isinstance(run.cells.get(column), float) for run in runs)}
        rows = [[_shown(run.cells.get(column)) for column in columns] for run in runs]
        names = pd.Index([run.label for run in runs], name="run")
        plain = markdown(pd.DataFrame(rows, names, columns, dtype=str))
        self._add("runs", plain, runs=runs, columns=columns, numbers=numbers)

    def write(self) -> Path:
        """Write the pages; returns the path of the HTML."""
        environment = Environment(
            loader=PackageLoader("autosparse.page", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= {"bold": _bold, "shown": _shown}
        page = environment.get_template("page.html").render(
            title=self._title,
            blocks=self._blocks,
            style=_asset("page.css"),
            script=_asset("page.js"),
            library=Markup(library()) if self._charts or self._runs else "",
            data=self._data(),
            colors=COLORS,
            markers=MARKERS,
        )
        write_text(self.folder / "index.html", page)
        write_text(self.folder / "report.md", "\n\n".join(self._markdown) + "\n")
        return self.folder / "index.html"

    def _table(self, caption: str, frame: pd.DataFrame) -> None:
        self._add("table", f"{caption}\n\n{markdown(frame)}".strip(), caption=caption, grid=grid(frame))

    def _add(self, kind: str, plain: str, **block: Any) -> None:
        self._blocks.append({"kind": kind, **block})
        self._markdown.append(plain)

    def _data(self) -> str:
        """What the script draws, compressed: the same words come in it a thousand times."""
        runs = [
            {
                "name": run.name,
                "cells": {column: _shown(value) for column, value in run.cells.items()},
                "texts": run.texts,
                "tables": {title: grid(table) for title, table in run.tables.items()},
                "chart": run.chart and run.chart.to_json(),
            }
            for run in self._runs
        ]
        data = {"theme": theme(), "charts": [chart.to_json() for chart in self._charts], "runs": runs}
        text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _asset(name: str) -> Markup:
    return Markup(files(__package__).joinpath(name).read_text())


def _embedded(picture: Path) -> str:
    kind = {".svg": "svg+xml", ".png": "png"}[picture.suffix]
    return f"data:image/{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _bold(text: str) -> Markup:
    """**bold** as HTML."""
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(text))))


def _shown(value: str | float | None) -> str:
    """A cell: numbers in at most four digits, a dash where there is nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
