"""Charts as Vega-Lite: one specification for the page, where it moves, and for the SVG and PNG that do not."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import vl_convert
from PIL import Image

from autosparse.files import replacing, write_text

Spec = dict[str, Any]
"""A part of a Vega-Lite specification."""

# each is at least 3:1 on white and on the page's dark ground, and they stay apart for red-green blind eyes
COLORS = ("#1f83cb", "#d55e00", "#009273", "#b2589a", "#80722c", "#767c85")
MARKERS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
_INK = "#1f2328"  # of what is drawn on white
_SCALE, _SHADES = 1.5, 128  # of a PNG, a fifth as large with few shades
_WIDTHS = {1: 640, 2: 380}  # of a static view, by the number of columns


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One picture of some views of the same rows, drawn beside each other.

    The page gives each view the parameters `hidden` (the series that are not shown), `whole` (whether the axis shows
    all) and those of `choices`; a view filters and scales by them as it likes.
    """

    rows: Sequence[Mapping[str, Any]]
    """The data of all views; what is not a finite number is None."""
    views: Mapping[str, Spec]
    """Vega-Lite by title, without data; a single one needs no title."""
    series: Mapping[str, int] = field(default_factory=dict)
    """The values of the field `series`, which can be hidden, with the number of the colour and marker of each."""
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Parameters that a switch of the page sets, and the values that this chart knows; the first is that at first."""
    cut: bool = False
    """Whether something lies beyond the axis unless `whole` is true."""

    def to_json(self) -> Spec:
        """What the page's script draws."""
        return {
            "rows": self.rows,
            "views": self.views,
            "parameters": {"hidden": [], "whole": False},
            "choices": self.choices,
            "legend": not self.series,
        }

    def static(self) -> Spec:
        """A complete specification of the chart as it is at first."""
        columns = min(2, len(self.views))
        views = [
            {"width": _WIDTHS[columns], "height": 300, **view, **({"title": title} if title else {})}
            for title, view in self.views.items()
        ]
        first = {name: values[0] for name, values in self.choices.items()}
        parameters = {**self.to_json()["parameters"], **first}
        return {
            "data": {"values": self.rows},
            "params": [{"name": name, "value": value} for name, value in parameters.items()],
            "config": {**theme(), "aria": False, "background": "white", "font": "sans-serif"},
            **(views[0] if len(views) == 1 else {"concat": views, "columns": columns}),
        }

    def svg(self) -> str:
        """The static picture, on white."""
        svg: str = vl_convert.vegalite_to_svg(json.dumps(self.static()).replace("currentColor", _INK))
        return svg

    def save(self, stem: Path) -> Path:
        """Write `stem.svg` and `stem.png`; returns the smaller one."""
        svg, png = (stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png"))
        text = self.svg()
        write_text(svg, text)
        drawn = Image.open(BytesIO(vl_convert.svg_to_png(text, scale=_SCALE))).convert("RGB")
        with replacing(png) as temporary:
            drawn.quantize(_SHADES, Image.Quantize.FASTOCTREE).save(temporary, format="png")
        return min(svg, png, key=lambda path: path.stat().st_size)


def coded(series: Mapping[str, int]) -> tuple[Spec, Spec]:
    """The encodings `color` and `shape` of the field `series`, by the number of each."""

    def encoding(codes: Sequence[str]) -> Spec:
        chosen = [codes[number % len(codes)] for number in series.values()]
        return {"field": "series", "type": "nominal", "scale": {"domain": [*series], "range": chosen}}

    return encoding(COLORS), encoding(MARKERS)


def numbered(series: Iterable[str]) -> dict[str, int]:
    """Series with the number of each, in the order in which they first come."""
    return {name: number for number, name in enumerate(dict.fromkeys(series))}


def theme() -> Spec:
    """The Vega-Lite configuration of all charts; colours are those of the text around."""
    loaded: Spec = json.loads(files(__package__).joinpath("theme.json").read_text())
    return loaded


@cache
def library() -> str:
    """Vega, Vega-Lite and its embedding as one script, as they come with vl-convert: no network is needed."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    assert "</script" not in script  # it would end the element that it stands in
    return script
