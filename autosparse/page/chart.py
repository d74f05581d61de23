"""Charts: Altair views that the page draws and its controls change, also saved as SVG and PNG."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from PIL import Image

from autosparse.files import replacing, write_text

View = alt.Chart | alt.LayerChart
ROWS = alt.NamedData("rows")
"""The data of every view; `Chart.rows` holds it."""

# Each color has a contrast of at least 3:1 with white and with the dark page. They differ for red-green blind readers.
COLORS = ("#1f83cb", "#d55e00", "#009273", "#b2589a", "#80722c", "#767c85")
MARKERS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
_INK = "#1f2328"  # replaces currentColor on white
_SCALE, _SHADES = 1.5, 128  # a PNG with few shades has a fifth of the size
_WIDTHS = {1: 640, 2: 380}  # pixels of a saved view, by the number of columns


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure: views of the same rows, side by side.

    Expressions of a view can read these parameters: `hidden` (the series that the legend hides), `whole` (whether the
    axis shows all points) and the keys of `choices`.
    """

    rows: Sequence[Mapping[str, Any]]
    """The data of all views; a missing or infinite number is None."""
    views: Mapping[str, View]
    """Altair charts of `ROWS` by title; a single view may have an empty title."""
    series: Mapping[str, int] = field(default_factory=dict)
    """Values of the field `series` that the legend can hide, each with the number of its color and marker."""
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Parameters that a switch of the page sets, and their values in this chart, the initial value first."""
    cut: bool = False
    """Whether some points lie beyond the axis unless `whole` is true."""

    def to_json(self) -> dict[str, Any]:
        """Return the input of the page's script."""
        views = {title: view.to_dict() for title, view in self.views.items()}
        for view in views.values():
            del view["config"], view["$schema"]
        return {
            "rows": self.rows,
            "views": views,
            "parameters": {"hidden": [], "whole": False},
            "choices": self.choices,
            "legend": not self.series,
        }

    def svg(self) -> str:
        """Return the figure in its initial state, on white."""
        columns = min(2, len(self.views))
        views = [view.properties(width=_WIDTHS[columns], title=title) for title, view in self.views.items()]
        values = {"hidden": [], "whole": False} | {name: known[0] for name, known in self.choices.items()}
        specification = alt.concat(*views, columns=columns).to_dict() | {
            "datasets": {ROWS.name: self.rows},
            "params": [{"name": name, "value": value} for name, value in values.items()],
            "config": {**theme(), "aria": False, "background": "white", "font": "sans-serif"},
        }
        svg: str = vl_convert.vegalite_to_svg(json.dumps(specification).replace("currentColor", _INK))
        return svg

    def save(self, stem: Path) -> Path:
        """Write `stem.svg` and `stem.png`; return the path of the smaller file."""
        svg, png = (stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png"))
        text = self.svg()
        write_text(svg, text)
        image = Image.open(BytesIO(vl_convert.svg_to_png(text, scale=_SCALE))).convert("RGB")
        with replacing(png) as temporary:
            image.quantize(_SHADES, Image.Quantize.FASTOCTREE).save(temporary, format="png")
        return min(svg, png, key=lambda path: path.stat().st_size)


def series_encodings(series: Mapping[str, int]) -> tuple[alt.Color, alt.Shape]:
    """Return the color and the shape of the field `series`, given the number of each of its values."""

    def scale(codes: Sequence[str]) -> dict[str, Any]:
        return {"domain": [*series], "range": [codes[number % len(codes)] for number in series.values()]}

    return alt.Color("series:N").scale(**scale(COLORS)), alt.Shape("series:N").scale(**scale(MARKERS))


def number_series(names: Iterable[str]) -> dict[str, int]:
    """Number distinct names in the order of their first appearance."""
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def theme() -> dict[str, Any]:
    """Return the Vega-Lite configuration of all charts; lines and labels have the color of the text around them."""
    config: dict[str, Any] = json.loads(files(__package__).joinpath("theme.json").read_text())
    return config


@cache
def library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script; vl-convert includes them, so no network is needed."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    assert "</script" not in script  # it would end the page's script element
    return script
