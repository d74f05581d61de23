"""Results as charts: the metric against sparsity and cost, what each layer keeps, how the training went, checks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from autosparse.metrics import factor, label
from autosparse.page import Chart, Spec, coded, numbered
from autosparse.study.results import metric_of

AT_START = "at initialization"
"""The family of criteria that look at the start alone, whose points are not joined."""
Codes = Mapping[str, int] | None
"""Numbers of colours and markers by series, so that a page shows each in one way; in order of appearance if None."""
SHOWN: Spec = {"filter": "indexof(hidden, datum.series) < 0"}
_DECADES = [digit * 10.0**power for power in range(-4, 3) for digit in (1, 3)]
_DENSE: Sequence[Spec] = (
    {
        "transform": [{"filter": "isValid(datum.dense)"}],
        "mark": {"type": "rule", "strokeDash": [2, 3], "color": "currentColor", "opacity": 0.6},
        "encoding": {"y": {"field": "dense", "type": "quantitative"}},
    },
    {
        "transform": [{"filter": "isValid(datum.dense)"}],
        "mark": {"type": "text", "align": "right", "dy": -7, "color": "currentColor", "opacity": 0.8},
        "encoding": {
            "y": {"field": "dense", "type": "quantitative"},
            "text": {"value": "dense"},
            "x": {"value": "width"},
        },
    },
)


def spread(rows: pd.DataFrame, by: Sequence[str], measure: str = "test") -> pd.DataFrame:
    """Mean and deviation over seeds: columns `by`, `mean`, `std` (0 of a single one), `runs`; shares in per cent."""
    metric, _ = metric_of(rows)
    values = rows.assign(value=factor(metric) * rows[measure].astype(float)).dropna(subset="value")
    found = values.groupby([*by], sort=False)["value"].agg(["mean", "std", "count"]).reset_index()
    return found.fillna({"std": 0.0}).rename(columns={"count": "runs"})


def against_sparsity(
    points: pd.DataFrame, metric: str, better: str, dense: Mapping[str, float] | None = None, codes: Codes = None
) -> Chart:
    """A metric against sparsity, a line a series.

    Args:
        points: `series`, `measure` (of `MEASURES`), `sparsity`, `mean`, `std`, `runs`, as `spread` gives them, and
            `iterative`, whether these are masks of IRP, which are drawn dashed.
        metric: what it is.
        better: which way that is better.
        dense: the value without pruning by measure.
        codes: see `Codes`.
    """
    series = chosen(points["series"], codes)
    rows = [*_rows(points.assign(density=100 * (1 - points["sparsity"])))]
    rows += [{"measure": name, "dense": number_of(value)} for name, value in (dense or {}).items()]
    pruned = points[~points["iterative"]]
    ticks = sorted({100.0, *(100 * (1 - (pruned if len(pruned) else points[::3])["sparsity"])).round(3)})
    color, shape = coded(series)
    low, high, cut = _limits(points, metric, better)
    x: Spec = {
        "field": "density",
        "type": "quantitative",
        "scale": {"type": "log", "reverse": True, "domain": [0.9 * _points_min(points), 100], "nice": False},
        "axis": {
            "values": ticks,
            "labelExpr": "format(round(1000 * (100 - datum.value)) / 1000, '~g') + '%'",
            "labelOverlap": "greedy",
            "title": "sparsity (logarithmic in density)",
        },
    }
    y = _metric_axis("mean", f"test {label(metric)}", low, high, cut)
    tooltip = tooltip_of(series="", sparsity_label="sparsity", mean="mean", std="deviation", runs="runs")
    line: Spec = {"encoding": {"x": x, "y": y, "color": color}}
    view: Spec = {
        "transform": [
            {"filter": "datum.measure == measure"},
            SHOWN,
            {"calculate": "format(datum.sparsity, '~p')", "as": "sparsity_label"},
        ],
        "layer": [
            *(_DENSE if dense else ()),
            *(
                {
                    **line,
                    "transform": [{"filter": f"datum.iterative === {str(iterative).lower()}"}],
                    "mark": {"type": "line", "clip": True} | ({"strokeDash": [6, 4]} if iterative else {}),
                }
                for iterative in sorted(set(points["iterative"]))
            ),
            *_bars(points, x, y, color),
            {
                "transform": [{"filter": "isValid(datum.series)"}],
                "mark": {"type": "point", "clip": True},
                "encoding": {"x": x, "y": y, "color": color, "shape": shape, "tooltip": tooltip},
            },
        ],
        "height": 360,
    }
    return Chart(
        rows=rows, views={"": view}, series=series, choices={"measure": [*dict.fromkeys(points["measure"])]}, cut=cut
    )


def against_cost(panels: Mapping[str, pd.DataFrame], codes: Codes = None) -> Chart:
    """A metric against the trainings that it took, a view a panel; better is higher up.

    Args:
        panels: by title, one row a run, with `method`, `family` (whose variants are joined; without one it is not
            drawn), `cost`, `test` and what says which metric it is.
        codes: see `Codes`.
    """
    families = chosen((each for each in pd.concat(panels.values())["family"] if each), codes)
    color, shape = coded(families)
    rows: list[dict[str, Any]] = []
    views: dict[str, Spec] = {}
    cut = False
    for title, runs in panels.items():
        metric, better = metric_of(runs)
        drawn = runs[runs["family"] != ""]
        points = spread(drawn, ("family", "method"))
        points["cost"] = points["method"].map(drawn.groupby("method")["cost"].mean())
        # beside each other, not upon
        points["at"] = points["cost"] * (1 + 0.02 * (points["family"].map([*families].index) - len(families) / 2))
        points = points.rename(columns={"family": "series"}).assign(panel=title).sort_values("at")
        rows += _rows(points)
        low, high, beyond = _limits(points, metric, better)
        cut |= beyond
        x: Spec = {
            "field": "at",
            "type": "quantitative",
            "scale": {"type": "log", "nice": False, "domain": [0.85 * points["at"].min(), 1.15 * points["at"].max()]},
            "axis": {"values": [1, 2, 3, 5, 10, 20, 50], "title": "cost, trainings"},
        }
        y = _metric_axis("mean", f"test {label(metric)}, {better} is better", low, high, beyond)
        tooltip = tooltip_of(method="", cost="cost", mean="mean", std="deviation", runs="runs")
        views[title] = {
            "transform": [{"filter": {"field": "panel", "equal": title}}, SHOWN],
            "layer": [
                {
                    "transform": [{"filter": {"field": "series", "oneOf": [f for f in families if f != AT_START]}}],
                    "mark": {"type": "line", "clip": True},
                    "encoding": {"x": x, "y": y, "color": color, "order": {"field": "at"}},
                },
                *_bars(points, x, y, color),
                {
                    "mark": {"type": "point", "clip": True},
                    "encoding": {"x": x, "y": y, "color": color, "shape": shape, "tooltip": tooltip},
                },
            ],
        }
    return Chart(rows=rows, views=views, series=families, cut=cut)


def layer_densities(pruned: pd.DataFrame, codes: Codes = None) -> Chart:
    """Density by layer of each criterion, from the input to the output, a view a sparsity, mean over seeds."""
    series = chosen(pruned["criterion"], codes)
    color, shape = coded(series)
    rows: list[dict[str, Any]] = []
    views: dict[str, Spec] = {}
    for (sparsity, name), group in pruned.groupby(["sparsity", "criterion"], sort=False):
        means = 100 * pd.DataFrame(group["layer_densities"].tolist()).mean()
        rows += [
            {
                "series": name,
                "sparsity": sparsity,
                "layer": layer.removesuffix(".weight"),
                "density": number_of(density),
            }
            for layer, density in means.items()
            if density > 0  # a logarithm shows no layer that is empty; the report names them
        ]
    for sparsity in sorted(pruned["sparsity"].unique()):
        x: Spec = {
            "field": "layer",
            "type": "ordinal",
            "sort": None,
            "axis": {"title": None, "labelAngle": -40, "labelLimit": 110, "labelOverlap": "greedy"},
        }
        y: Spec = {
            "field": "density",
            "type": "quantitative",
            "scale": {"type": "log", "nice": False, "padding": 10},
            "axis": {"title": "density of the layer, %", "format": "~g", "values": _DECADES},
        }
        tooltip = tooltip_of(series="", layer="layer", density="density, %")
        views[title_of(sparsity)] = {
            "transform": [{"filter": {"field": "sparsity", "equal": sparsity}}, SHOWN],
            "layer": [
                {"mark": "line", "encoding": {"x": x, "y": y, "color": color}},
                {"mark": "point", "encoding": {"x": x, "y": y, "color": color, "shape": shape, "tooltip": tooltip}},
            ],
        }
    return Chart(rows=rows, views=views, series=series)


def checks(points: pd.DataFrame, metric: str, codes: Codes = None) -> Chart:
    """Sanity checks: a row a check, a marker a series, a view a sparsity.

    Args:
        points: `series`, `sparsity`, `check`, `mean`, `std`, `runs`, as `spread` gives them.
        metric: what it is.
        codes: see `Codes`.
    """
    series, kinds = chosen(points["series"], codes), [*dict.fromkeys(points["check"])]
    color, shape = coded(series)
    x: Spec = {
        "field": "mean",
        "type": "quantitative",
        "scale": {"zero": False, "padding": 12},
        "axis": {"title": f"test {label(metric)}", "tickCount": 5},
    }
    where: Spec = {
        "y": {"field": "check", "type": "nominal", "sort": kinds, "axis": {"title": None, "grid": True}},
        "yOffset": {"field": "series", "sort": [*series], "scale": {"domain": [*series]}},
        "color": color,
    }
    tooltip = tooltip_of(series="", check="check", mean="mean", std="deviation", runs="runs")
    views: dict[str, Spec] = {}
    for sparsity in sorted(points["sparsity"].unique()):
        views[title_of(sparsity)] = {
            "transform": [
                {"filter": {"field": "sparsity", "equal": sparsity}},
                SHOWN,
                {"calculate": "datum.mean - datum.std", "as": "low"},
                {"calculate": "datum.mean + datum.std", "as": "high"},
            ],
            "height": 60 + 36 * len(kinds),
            "layer": [
                {"mark": "rule", "encoding": {**where, "x": {**x, "field": "low"}, "x2": {"field": "high"}}},
                {"mark": "point", "encoding": {**where, "x": x, "shape": shape, "tooltip": tooltip}},
            ],
        }
    return Chart(rows=_rows(points), views=views, series=series)


def _metric_axis(field: str, title: str, low: float, high: float, cut: bool) -> Spec:
    """The axis of a metric between limits or, where `whole` is true, as far as there are points."""
    scale: Spec = {"zero": False, "nice": False}
    if cut:
        scale |= {
            "domainMin": {"expr": f"whole ? null : {low:.6g}"},
            "domainMax": {"expr": f"whole ? null : {high:.6g}"},
        }
    else:
        scale |= {"domain": [low, high]}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": {"title": title, "tickCount": 6}}


def _limits(points: pd.DataFrame, metric: str, better: str) -> tuple[float, float, bool]:
    """Where the axis ends, and whether that cuts something off.

    A criterion at chance must not flatten the differences among the others.
    """
    means = points["mean"]
    bottom, top = float((means - points["std"]).min()), float((means + points["std"]).max())
    margin = 0.05 * (top - bottom) or 0.5
    low, high = bottom - margin, top + margin
    if better == "higher":
        rest = float(means.quantile(0.12))
        low = max(low, rest - 0.5 * (top - rest) - margin) if rest < top else low
    else:
        rest = float(means.quantile(0.88))
        high = min(high, rest + 0.5 * (rest - bottom) + margin) if rest > bottom else high
    if factor(metric) > 1:
        low, high = max(low, 0.0), min(high, 100.0)
    return low, high, low > float(means.min()) or high < float(means.max())


def _bars(points: pd.DataFrame, x: Spec, y: Spec, color: Spec) -> list[Spec]:
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


def _points_min(points: pd.DataFrame) -> float:
    """The least density, in per cent."""
    return float(100 * (1 - points["sparsity"].max()))


def chosen(names: Iterable[str], codes: Codes) -> dict[str, int]:
    """The series there are, in the order of their codes."""
    there = numbered(names)
    return there if codes is None else {name: number for name, number in codes.items() if name in there}


def title_of(sparsity: float) -> str:
    return f"{100 * sparsity:g}% sparsity"


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A data frame as rows; numbers in six digits, None where there is none."""
    return [{key: number_of(value) for key, value in row.items()} for row in frame.to_dict("records")]


def number_of(value: Any) -> Any:
    """A number in six digits, None if it is none; all else as it is."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if np.isfinite(value) else None
