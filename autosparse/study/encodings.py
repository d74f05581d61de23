"""What the charts of results share: how a metric's axis runs, what is hidden, and how rows and numbers are written."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from autosparse.metrics import factor
from autosparse.page import Spec, numbered

Codes = Mapping[str, int] | None
"""Numbers of colours and markers by series, so that a page shows each in one way; in order of appearance if None."""
SHOWN: Spec = {"filter": "indexof(hidden, datum.series) < 0"}
"""Leaves out the series that the legend hides."""


def metric_axis(title: str, low: float, high: float, cut: bool, reverse: bool = False) -> Spec:
    """The axis of a metric between limits or, where `whole` is true, as far as there are points."""
    scale: Spec = {"zero": False, "nice": False, "reverse": reverse}
    if cut:
        scale |= {
            "domainMin": {"expr": f"whole ? null : {low:.6g}"},
            "domainMax": {"expr": f"whole ? null : {high:.6g}"},
        }
    else:
        scale |= {"domain": [low, high]}
    return {"field": "mean", "type": "quantitative", "scale": scale, "axis": {"title": title, "tickCount": 6}}


def limits(points: pd.DataFrame, metric: str, better: str) -> tuple[float, float, bool]:
    """Return the ends of a metric's axis, and whether some points are beyond them.

    A criterion at chance must not flatten the differences among the others. Where `better` is neither `higher` nor
    `lower`, all points are within.
    """
    means = points["mean"]
    bottom, top = float((means - points["std"]).min()), float((means + points["std"]).max())
    margin = 0.05 * (top - bottom) or 0.5
    low, high = bottom - margin, top + margin
    if better == "higher":
        rest = float(means.quantile(0.12))
        low = max(low, rest - 0.5 * (top - rest) - margin) if rest < top else low
    elif better == "lower":
        rest = float(means.quantile(0.88))
        high = min(high, rest + 0.5 * (rest - bottom) + margin) if rest > bottom else high
    if factor(metric) > 1:
        low, high = max(low, 0.0), min(high, 100.0)
    return low, high, low > float(means.min()) or high < float(means.max())


def deviations(points: pd.DataFrame, x: Spec, y: Spec, color: Spec) -> list[Spec]:
    """The deviation around each point, where there is any: a layer without rows would be told of on the console."""
    if not (points["std"] > 0).any():
        return []
    return [
        {
            "transform": [
                {"filter": "datum.std > 0"},
                {"calculate": "datum.mean - datum.std", "as": "low"},
                {"calculate": "datum.mean + datum.std", "as": "high"},
            ],
            "mark": {"type": "rule", "clip": True},
            "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": color},
        }
    ]


def tooltip_of(**titles: str) -> list[Spec]:
    """Fields by name; numbers in four digits."""
    numbers = {"mean", "std", "cost", "density", "value"}
    return [
        {"field": name, "title": title or "series"}
        | ({"format": ".4~g", "type": "quantitative"} if name in numbers else {})
        for name, title in titles.items()
    ]


def chosen(names: Iterable[str], codes: Codes) -> dict[str, int]:
    """The series there are, in the order of their codes."""
    there = numbered(names)
    return there if codes is None else {name: number for name, number in codes.items() if name in there}


def title_of(sparsity: float) -> str:
    return f"{100 * sparsity:g}% sparsity"


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A data frame as rows; numbers in six digits, None where there is none."""
    return [{key: number_of(value) for key, value in row.items()} for row in frame.to_dict("records")]


def number_of(value: Any) -> Any:
    """A number in six digits, None if it is none; all else as it is."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if np.isfinite(value) else None
