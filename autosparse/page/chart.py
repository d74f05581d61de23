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

# Colors on white and on the dark page. Each has a contrast of at least 3:1 with its page, and all differ in grayscale
# and for color-blind readers.
LIGHT = ("#0753b3", "#885403", "#528651", "#7a1a71", "#9e8000", "#025b2c", "#b46fe1", "#483a40", "#a84fa2", "#6b6673")
DARK = ("#7d9afd", "#ed981e", "#a5dda2", "#c564b8", "#ffd865", "#10a958", "#f4e2fe", "#88787f", "#fda5f5", "#bab4c3")
COLORS = tuple(f"var(--series-{number})" for number in range(len(LIGHT)))
"""Colors of the page's style sheet, by number of a series."""
MARKERS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
SHADES = {**dict(zip(COLORS, LIGHT, strict=True)), "currentColor": "#1f2328", "var(--accent)": "#0b63b5"}
"""Colors on white that replace those of the page's style sheet in a saved figure."""
_PARAMETERS = {"hidden": [], "whole": False, "labels": True}
_SCALE, _SHADES = 1.5, 128  # a PNG with few shades has a fifth of the size
_WIDTHS = {1: 640, 2: 380}  # pixels of a saved view, by the number of columns
_WIDE, _NARROW, _SIDE = 760, 300, 380  # pixels of a picture in the page: of a single view, and of one of several


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure: views of the same rows, side by side.

    Expressions of a view can read these parameters: `hidden` (the series that the legend hides), `whole` (whether the
    axis shows all points), `labels` (whether there is room for labels) and the keys of `choices`.
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
    columns: int = 2
    """Largest number of views side by side in a saved figure."""

    def to_json(self) -> dict[str, Any]:
        """Return the input of the page's script."""
        views = {title: view.to_dict(validate=False) for title, view in self.views.items()}
        for view in views.values():
            del view["config"], view["$schema"]
        return {
            "rows": self.rows,
            "views": views,
            "parameters": _PARAMETERS,
            "choices": self.choices,
            "legend": not self.series,
        }

    def svg(self) -> str:
        """Return the figure with its legend in its initial state, on white."""
        columns = min(self.columns, len(self.views))
        views = [view.properties(width=_WIDTHS[columns], title=title) for title, view in self.views.items()]
        svg = self._svg(alt.concat(*views, columns=columns), {"background": "white", "font": "sans-serif"})
        for color, shade in SHADES.items():
            svg = svg.replace(color, shade)
        return svg

    def pictures(self) -> list[dict[str, str]]:
        """Return each view in its initial state as SVG for the page, in the page's colors and without legend.

        Keys: `title`, `wide`, and `narrow` for small windows; it is empty where `wide` fits these too.
        """
        config = {"legend": {**theme()["legend"], "disable": bool(self.series)}}
        widths = {"wide": _SIDE} if [*self.views] != [""] else {"wide": _WIDE, "narrow": _NARROW}
        return [
            {"title": title, "narrow": ""}
            | {name: self._svg(view.properties(width=width), config, width == _WIDE) for name, width in widths.items()}
            for title, view in self.views.items()
        ]

    def _svg(self, view: alt.TopLevelMixin, config: Mapping[str, Any], labels: bool = True) -> str:
        values = _PARAMETERS | {"labels": labels} | {name: known[0] for name, known in self.choices.items()}
        specification = view.to_dict(validate=False) | {
            "datasets": {ROWS.name: self.rows},
            "params": [{"name": name, "value": value} for name, value in values.items()],
            "config": {**theme(), "aria": False, **config},
        }
        svg: str = vl_convert.vegalite_to_svg(json.dumps(specification))
        return svg

    def save(self, stem: Path) -> Path:
        """Write `stem.svg` and `stem.png`; return the path of the PNG."""
        svg, png = (stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png"))
        text = self.svg()
        write_text(svg, text)
        image = Image.open(BytesIO(vl_convert.svg_to_png(text, scale=_SCALE))).convert("RGB")
        with replacing(png) as temporary:
            image.quantize(_SHADES, Image.Quantize.FASTOCTREE).save(temporary, format="png")
        return png


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
