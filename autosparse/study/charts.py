"""Charts of results: a metric against sparsity and cost, densities of layers, training curves, sanity checks."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from autosparse.metrics import factor, label
from autosparse.page import ROWS, Chart, View, series_encodings
from autosparse.study.compare import MEASURES, metric_of, metrics_of, per_cent

Codes = Mapping[str, int]
"""Numbers of the colors and markers of criteria, equal for all charts of a page, in the order of the legend."""
CURVES = {"test": "test", "validation": "validation", "loss": "training loss"}
"""Training curves by the key of a run's history."""

_SHOWN = "indexof(hidden, datum.series) < 0"  # False for a series that the legend hides
_LAST_18 = "length(datum.label) > 18 ? '…' + slice(datum.label, -17) : datum.label"  # names differ in their ends
_SPARSITIES = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99)  # ticks in per cent
_HEIGHT, _LABEL = 360, 15  # pixels of the view against sparsity and of one of its labels
_DECADES = [digit * 10.0**power for power in range(-4, 3) for digit in (1, 3)]
_EPOCHS, _MARKED = 50, 10  # the most points and markers of a training curve


def spread(rows: pd.DataFrame, by: Sequence[str], measure: str = "test") -> pd.DataFrame:
    """Return columns `by`, `mean`, `std` (0 for a single seed) and `runs` of a metric over seeds.

    Fractions are in per cent.
    """
    metric, _ = metric_of(rows)
    values = rows.assign(value=factor(metric) * rows[measure].astype(float)).dropna(subset="value")
    points = values.groupby([*by], sort=False)["value"].agg(["mean", "std", "count"]).reset_index()
    return points.fillna({"std": 0.0}).rename(columns={"count": "runs"})


def sparsity_chart(rows: pd.DataFrame, dense: pd.DataFrame, codes: Codes) -> Chart:
    """Draw a metric against sparsity, with one line per criterion; the parameter `measure` is a key of `MEASURES`.

    The parameter `labels` shows the name of each criterion at the right end of the axis. Rows have `iterative`, true
    for masks of IRP, whose lines are dashed. `dense` has the rows of the unpruned network, if any exist.
    """
    metric, better = metric_of(rows)
    measures = [measure for measure in MEASURES if rows[measure].notna().any()]
    spreads = [spread(rows, ("criterion", "sparsity", "iterative"), name).assign(measure=name) for name in measures]
    points = pd.concat(spreads, ignore_index=True)
    density = 100 * (1 - points["sparsity"])
    chart_rows = _rows(points.assign(density=density))
    levels = {name: factor(metric) * float(dense[name].astype(float).mean()) for name in measures if len(dense)}
    limits = axis_limits(points, metric, better)
    for measure, group in points.groupby("measure", sort=False):
        chart_rows += _labels(group, levels.get(str(measure)), limits)
    chart_rows += [{"measure": measure, "dense": _number(level)} for measure, level in levels.items()]
    ends = 0.9 * float(density.min()), min(1.1 * float(density.max()), 100.0)
    round_numbers = [100.0 - tick for tick in _SPARSITIES if ends[0] <= 100.0 - tick <= ends[1]]
    ticks = round_numbers if len(round_numbers) > 2 else sorted({*density.round(3)}, reverse=True)
    series, color, shape = _present(rows["criterion"], codes)
    y, cut = _metric_axis(points, f"test {label(metric)} (± std, {_count(points)})", metric, better)
    x = (
        alt.X("density:Q")
        .scale(type="log", reverse=True, domain=[*ends], nice=False)
        .axis(
            values=ticks,
            labelExpr="format(round(1000 * (100 - datum.value)) / 1000, '~g') + '%'",
            labelOverlap="greedy",
            title="sparsity (logarithmic in density)",
        )
    )
    layers: list[alt.Chart] = []
    if len(dense):
        level = alt.Chart(ROWS).transform_filter("isValid(datum.dense)").encode(y="dense:Q")
        layers.append(level.mark_rule(strokeDash=[2, 3], color="currentColor", opacity=0.6))
    for iterative in sorted(set(points["iterative"])):
        line = alt.Chart(ROWS).transform_filter(f"datum.iterative === {str(iterative).lower()}")
        dashes = [6, 4] if iterative else alt.Undefined
        layers.append(line.mark_line(clip=True, strokeDash=dashes).encode(x=x, y=y, color=color))
    layers += _deviations(points, x, y, color)
    marks = alt.Chart(ROWS).transform_filter("isValid(datum.mean)").mark_point(clip=True)
    tooltip = _tooltip(series="series", sparsity_label="sparsity", mean="mean", std="deviation", runs="runs")
    layers.append(marks.encode(x=x, y=y, color=color, shape=shape, tooltip=tooltip))
    at_end = alt.Chart(ROWS).encode(x=alt.value("width"), y="at:Q")
    shown = "labels && !whole"
    names = at_end.transform_calculate(text=f"{shown} || !datum.series ? datum.name : ''")
    names = names.transform_filter("isValid(datum.at)").mark_text(align="left", dx=20, color="currentColor")
    layers.append(names.encode(text="text:N"))
    keys = at_end.transform_filter("isValid(datum.at) && isValid(datum.series)").properties(name="keys")
    keys = keys.mark_point(xOffset=10, size=45, opacity=alt.expr(f"{shown} ? 1 : 0"))
    layers.append(keys.encode(color=color, shape=shape))
    view = (
        _layered("datum.measure == measure", *layers)
        .transform_calculate(sparsity_label="format(datum.sparsity, '~p')")
        .properties(height=_HEIGHT)
    )
    return Chart(rows=chart_rows, views={"": view}, series=series, choices={"measure": measures}, cut=cut)


def _labels(points: pd.DataFrame, dense: float | None, limits: tuple[float, float, bool]) -> list[dict[str, Any]]:
    """Return rows of one measure that label the last point of each criterion and the dense line without overlap.

    `at` is the height of a label on the axis of the metric. Points beyond the axis have no label.
    """
    low, high, _ = limits
    last = points.sort_values("sparsity").groupby("criterion").tail(1)
    heights = {name: mean for name, mean in zip(last["criterion"], last["mean"], strict=True) if low <= mean <= high}
    named = [{"series": name, "name": name} for name in heights]
    if dense is not None and low <= dense <= high and "dense" not in heights:
        named, heights = [*named, {"name": "dense"}], heights | {"": dense}
    order = np.argsort([*heights.values()], kind="stable")
    gap = (high - low) * _LABEL / _HEIGHT
    at = np.array([*heights.values()], dtype=float)[order]
    for k in range(1, len(at)):
        at[k] = max(at[k], at[k - 1] + gap)
    for k in reversed(range(len(at))):  # None lies above the axis.
        at[k] = min(at[k], at[k + 1] - gap if k + 1 < len(at) else high)
    measure = points["measure"].iloc[0]
    return [{"measure": measure, **named[k], "at": _number(float(place))} for k, place in zip(order, at, strict=True)]


def _count(points: pd.DataFrame) -> str:
    """Return the number of runs per point as `n = 2` or `n = 1 to 2`."""
    fewest, most = points["runs"].min(), points["runs"].max()
    return f"n = {most}" if fewest == most else f"n = {fewest} to {most}"


def cost_chart(rows: pd.DataFrame, codes: Codes) -> Chart:
    """Draw a metric against its cost in full training runs, with one view per sparsity; better is higher up."""
    metric, better = metric_of(rows)
    series, color, shape = _present(rows["criterion"], codes)
    by = ["criterion", "sparsity"]
    points = spread(rows, by).join(rows.groupby(by)["cost"].mean(), on=by)
    # Criteria of the same cost are drawn next to each other.
    points["at"] = points["cost"] * (1 + 0.02 * (points["criterion"].map([*series].index) - len(series) / 2))
    views: dict[str, View] = {}
    any_cut = False
    for _, group in points.groupby("sparsity"):
        title = f"test {label(metric)} (± std, {_count(group)})"
        y, cut = _metric_axis(group, title, metric, better, better == "lower")
        any_cut |= cut
        x = (
            alt.X("at:Q")
            .scale(type="log", nice=False, domain=[0.85 * group["at"].min(), 1.15 * group["at"].max()])
            .axis(values=[1, 2, 3, 5, 10, 20, 50, 100], title="cost, training runs")
        )
        tooltip = _tooltip(series="series", cost="cost", mean="mean", std="deviation", runs="runs")
        marks = alt.Chart(ROWS).mark_point(clip=True).encode(x=x, y=y, color=color, shape=shape, tooltip=tooltip)
        views |= _by_sparsity(group, *_deviations(group, x, y, color), marks)
    return Chart(rows=_rows(points.sort_values(["sparsity", "at"])), views=views, series=series, cut=any_cut)


def layer_chart(pruned: pd.DataFrame, codes: Codes) -> Chart:
    """Draw the density of each layer from the input to the output, with one view per sparsity; means over seeds."""
    series, color, shape = _present(pruned["criterion"], codes)
    rows = [
        {
            "series": name,
            "sparsity": _number(sparsity),
            "layer": layer.removesuffix(".weight"),
            "density": _number(density),
        }
        for (sparsity, name), group in pruned.groupby(["sparsity", "criterion"], sort=False)
        for layer, density in (100 * pd.DataFrame(group["layer_densities"].tolist()).mean()).items()
        if density > 0  # A logarithmic axis cannot show an empty layer; the report names it.
    ]
    x = alt.X("layer:O", sort=None).axis(title=None, labelAngle=-40, labelExpr=_LAST_18, labelOverlap="greedy")
    tooltip = _tooltip(series="series", layer="layer", density="density, %")
    views: dict[str, View] = {}
    for _, group in pd.DataFrame(rows).groupby("sparsity"):
        ends = [0.85 * group["density"].min(), 1.15 * group["density"].max()]  # All layers may have one density.
        y = alt.Y("density:Q").scale(type="log", nice=False, domain=ends)
        y = y.axis(title="density of the layer, %", format="~g", values=_DECADES)
        lines = alt.Chart(ROWS).encode(x=x, y=y, color=color)
        views |= _by_sparsity(group, lines.mark_line(), lines.mark_point().encode(shape=shape, tooltip=tooltip))
    return Chart(rows=rows, views=views, series=series)


def check_chart(rows: pd.DataFrame, codes: Codes) -> Chart:
    """Draw sanity checks, with one line of the axis per `check`, one marker per criterion, one view per sparsity."""
    title = f"test {label(metric_of(rows)[0])}"
    points = spread(rows, ("criterion", "sparsity", "check"))
    series, color, shape = _present(rows["criterion"], codes)
    kinds = [*dict.fromkeys(points["check"])]
    scale = alt.Scale(zero=False, padding=12)
    x, low = (alt.X(f"{end}:Q", scale=scale).axis(title=title, tickCount=5) for end in ("mean", "low"))
    place = alt.Chart(ROWS).encode(
        y=alt.Y("check:N", sort=kinds).axis(title=None, grid=True),
        yOffset=alt.YOffset("series:N", sort=[*series]).scale(domain=[*series]),
        color=color,
    )
    ranges = place.transform_calculate(low="datum.mean - datum.std", high="datum.mean + datum.std")
    tooltip = _tooltip(series="series", check="check", mean="mean", std="deviation", runs="runs")
    marks = place.mark_point().encode(x=x, shape=shape, tooltip=tooltip)
    views = _by_sparsity(points, ranges.mark_rule().encode(x=low, x2="high"), marks)
    heights = {title: view.properties(height=60 + 36 * len(kinds)) for title, view in views.items()}
    return Chart(rows=_rows(points), views=heights, series=series)


def training_chart(pruned: pd.DataFrame, histories: Mapping[str, Sequence[Mapping[str, Any]]], codes: Codes) -> Chart:
    """Draw every training run as a line, with one view per sparsity; the parameter `curve` is a key of `CURVES`.

    `histories` has the epochs of each run by its folder.
    """
    metrics = metrics_of(pruned)
    series, color, shape = _present(pruned["criterion"], codes)
    rows = [
        {"series": row.criterion, "sparsity": _number(row.sparsity), "seed": row.seed}
        | thin(histories[row.folder], metrics)
        for row in pruned.itertuples()
    ]
    values = _curves(metrics, "epoch").encode(color=color)
    lines = values.mark_line(opacity=0.75, strokeWidth=1.3).encode(detail="seed:N")
    tooltip = _tooltip(series="series", seed="seed", epoch="epoch", value="value")
    marks = values.transform_filter("isValid(datum.marked)").mark_point(size=28).encode(shape=shape, tooltip=tooltip)
    choices = {"curve": [*CURVES], "metric": metrics}
    return Chart(rows=rows, views=_by_sparsity(pruned, lines, marks), series=series, choices=choices)


def pair_chart(metrics: Sequence[str]) -> Chart:
    """Draw the curves of two runs; the page's script fills in `thin` of each, with `series` and `side` (0 or 1)."""
    color = alt.Color("side:N", legend=None).scale(domain=[0, 1], range=["currentColor", "var(--accent)"])
    shape = alt.Shape("side:N", legend=None).scale(domain=[0, 1], range=["circle", "square"])
    dashes = alt.StrokeDash("side:N", legend=None).scale(domain=[0, 1], range=[[1, 0], [6, 4]])
    values = _curves(metrics, "epoch, or mask of iterative pruning").encode(color=color)
    marks = values.transform_filter("isValid(datum.marked)").mark_point(size=28)
    marks = marks.encode(shape=shape, tooltip=_tooltip(series="run", epoch="epoch", value="value"))
    view = alt.LayerChart(layer=[values.mark_line().encode(strokeDash=dashes), marks])
    return Chart(rows=[], views={"": view}, choices={"curve": [*CURVES], "metric": metrics})


def _curves(metrics: Sequence[str], title: str) -> alt.Chart:
    """Return the points of rows of `thin`, of which the parameters `curve` and `metric` choose the values."""
    number = f"indexof({json.dumps(metrics)}, metric)"
    return (
        alt.Chart(ROWS)
        .transform_flatten(["epoch", "marked", *CURVES, *_others(metrics)])
        .transform_calculate(value=f"datum[curve == 'test' && {number} > 0 ? 'test ' + {number} : curve]")
        .transform_filter("isValid(datum.value)")
        .encode(
            x=alt.X("epoch:Q").scale(zero=False, nice=False, padding=8).axis(title=title, tickMinStep=1, format="d"),
            y=alt.Y("value:Q").scale(zero=False).axis(title=None),
        )
    )


def _others(metrics: Sequence[str]) -> dict[str, str]:
    """Return all metrics but the first by their keys in a row of `thin`; a field with a dot would be a path."""
    return {f"test {number}": name for number, name in enumerate(metrics[1:], 1)}


def thin(history: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> dict[str, list[float | None]]:
    """Return at most 50 epochs of a run as parallel lists, first and last included; fractions are in per cent.

    `marked` is 1 where a curve has a marker, which includes the last epoch. `test` has the first metric of the run,
    `test 1` that which is called `metrics[1]`, and so on.
    """
    epochs = [*history]
    if len(epochs) > _EPOCHS:
        epochs = [epochs[round(k)] for k in np.linspace(0, len(epochs) - 1, _EPOCHS)]
    interval = -(-len(epochs) // _MARKED)
    lists: dict[str, list[float | None]] = {
        "epoch": [row["epoch"] for row in epochs],
        "marked": [1 if k % interval == 0 else None for k in reversed(range(len(epochs)))],
    }
    for key in CURVES:
        times = [1.0 if key == "loss" else factor(row["metric"]) for row in epochs]
        lists[key] = _scaled([row.get(key) for row in epochs], times)
    for key, name in _others(metrics).items():
        values = [row.get("more", {}).get(name, row.get(f"test/{name}")) for row in epochs]
        values = [row["test"] if row["metric"] == name else value for row, value in zip(epochs, values, strict=True)]
        lists[key] = _scaled(values, [factor(name)] * len(values))
    return lists


def _scaled(values: Sequence[float | None], times: Sequence[float]) -> list[float | None]:
    return [None if value is None else _number(value * by) for value, by in zip(values, times, strict=True)]


def axis_limits(points: pd.DataFrame, metric: str, better: str) -> tuple[float, float, bool]:
    """Return the ends of a metric's axis, and whether some points lie beyond them.

    A criterion at chance must not flatten the differences among the others: from the worst of the medians by sparsity
    the axis reaches 1.5 times as far down as it reaches up. If `better` is neither "higher" nor "lower", the axis
    contains all points.
    """
    means = points["mean"]
    medians = means.groupby(points["sparsity"]).median()
    bottom, top = float((means - points["std"]).min()), float((means + points["std"]).max())
    if better == "higher":
        worst = float(medians.min())
        bottom = max(bottom, worst - 1.5 * (top - worst))
    elif better == "lower":
        worst = float(medians.max())
        top = min(top, worst + 1.5 * (worst - bottom))
    margin = 0.05 * (top - bottom) or 0.5
    low, high = bottom - margin, top + margin
    if factor(metric) > 1:
        low, high = max(low, 0.0), min(high, 100.0)
    return low, high, low > float(means.min()) or high < float(means.max())


def _metric_axis(
    points: pd.DataFrame, title: str, metric: str, better: str, reverse: bool = False
) -> tuple[alt.Y, bool]:
    """Return the axis of a metric, and whether some points lie beyond it unless `whole` is true."""
    low, high, cut = axis_limits(points, metric, better)
    y = alt.Y("mean:Q").axis(title=title, tickCount=6)
    if not cut:
        return y.scale(zero=False, nice=False, reverse=reverse, domain=[low, high]), cut
    ends = {"domainMin": alt.expr(f"whole ? null : {low:.6g}"), "domainMax": alt.expr(f"whole ? null : {high:.6g}")}
    return y.scale(zero=False, nice=False, reverse=reverse, **ends), cut


def _deviations(points: pd.DataFrame, x: alt.X, y: alt.Y, color: alt.Color) -> list[alt.Chart]:
    """Return the layer of standard deviations; none without rows, for which Vega would print a warning."""
    if not (points["std"] > 0).any():
        return []
    ranges = (
        alt.Chart(ROWS)
        .transform_filter("datum.std > 0")
        .transform_calculate(low="datum.mean - datum.std", high="datum.mean + datum.std")
        .mark_rule(clip=True)
    )
    low = y.copy()
    low.shorthand = "low:Q"
    return [ranges.encode(x=x, y=low, y2="high", color=color)]


def _by_sparsity(rows: pd.DataFrame, *layers: alt.Chart) -> dict[str, View]:
    """Return one view per sparsity of the rows."""
    views: dict[str, View] = {}
    for sparsity in sorted(rows["sparsity"].unique().tolist()):
        condition = alt.FieldEqualPredicate(field="sparsity", equal=_number(sparsity))
        views[f"{per_cent(sparsity)} sparsity"] = _layered(condition, *layers)
    return views


def _layered(condition: str | alt.Predicate, *layers: alt.Chart) -> alt.LayerChart:
    """Return layers of the rows that fulfil a condition and that the legend does not hide."""
    return alt.LayerChart(layer=layers).transform_filter(condition).transform_filter(_SHOWN)


def _tooltip(**titles: str) -> list[alt.Tooltip]:
    """Return the fields of a tooltip by name; numbers have four digits."""
    numbers = ("mean", "std", "cost", "density", "value")
    return [
        alt.Tooltip(f"{name}:Q", title=title, format=".4~g")
        if name in numbers
        else alt.Tooltip(f"{name}:N", title=title)
        for name, title in titles.items()
    ]


def _present(names: Iterable[str], codes: Codes) -> tuple[dict[str, int], alt.Color, alt.Shape]:
    """Return the numbers of the series that are present, and their colors and markers."""
    names = {*names}
    series = {name: number for name, number in codes.items() if name in names}
    return series, *series_encodings(series)


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a data frame for a chart, whose series are the criteria."""
    records = frame.rename(columns={"criterion": "series"}).to_dict("records")
    return [{key: _number(value) for key, value in row.items()} for row in records]


def _number(value: Any) -> Any:
    """Round a float to six digits; return None for NaN and infinity, and anything else unchanged."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if np.isfinite(value) else None
