"""Results as charts: the metric against sparsity and cost, what each layer keeps, how the training went, checks."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from autosparse.metrics import factor, label
from autosparse.page import Chart, Spec, coded
from autosparse.study.compare import metric_of
from autosparse.study.encodings import (
    SHOWN,
    Codes,
    chosen,
    deviations,
    limits,
    metric_axis,
    number_of,
    rows_of,
    title_of,
    tooltip_of,
)

AT_START = "at initialization"
"""The family of criteria that look at the start alone, whose points are not joined."""
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


_ENDS = "length(datum.label) > 18 ? '…' + slice(datum.label, -17) : datum.label"  # names begin alike


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
    rows = [*rows_of(points.assign(density=100 * (1 - points["sparsity"])))]
    rows += [{"measure": name, "dense": number_of(value)} for name, value in (dense or {}).items()]
    pruned = points[~points["iterative"]]
    ticks = sorted({100.0, *(100 * (1 - (pruned if len(pruned) else points[::3])["sparsity"])).round(3)})
    color, shape = coded(series)
    low, high, cut = limits(points, metric, better)
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
    y = metric_axis(f"test {label(metric)}", low, high, cut)
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
            *deviations(points, x, y, color),
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
        rows += rows_of(points)
        low, high, beyond = limits(points, metric, better)
        cut |= beyond
        x: Spec = {
            "field": "at",
            "type": "quantitative",
            "scale": {"type": "log", "nice": False, "domain": [0.85 * points["at"].min(), 1.15 * points["at"].max()]},
            "axis": {"values": [1, 2, 3, 5, 10, 20, 50], "title": "cost, trainings"},
        }
        y = metric_axis(f"test {label(metric)}, {better} is better", low, high, beyond, reverse=better == "lower")
        tooltip = tooltip_of(method="", cost="cost", mean="mean", std="deviation", runs="runs")
        views[title] = {
            "transform": [{"filter": {"field": "panel", "equal": title}}, SHOWN],
            "layer": [
                {
                    "transform": [{"filter": {"field": "series", "oneOf": [f for f in families if f != AT_START]}}],
                    "mark": {"type": "line", "clip": True},
                    "encoding": {"x": x, "y": y, "color": color, "order": {"field": "at"}},
                },
                *deviations(points, x, y, color),
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
            "axis": {"title": None, "labelAngle": -40, "labelExpr": _ENDS, "labelOverlap": "greedy"},
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
    return Chart(rows=rows_of(points), views=views, series=series)


def _points_min(points: pd.DataFrame) -> float:
    """The least density, in per cent."""
    return float(100 * (1 - points["sparsity"].max()))
