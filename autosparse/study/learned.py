"""Charts of a fitted AutoS: its score over two features, survival and its prediction."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import torch
from numpy.typing import NDArray

from autosparse.autos import AutoS, LookupTable, scale_of_store
from autosparse.autos.features import label_table
from autosparse.page import ROWS, Chart, View, number_series, series_encodings
from autosparse.store import TripleStore, sample

_SAMPLE = 20_000  # parameters drawn at random
_REACH, _CELLS = 4.0, 33  # half the width of a map in root mean squares, and its cells along an axis
_THIRD = (1e-4, 1e-2, 1.0)  # values of a third feature over its mean, one map each
_OVERLAP = 1.05  # cells overlap, because renderers leave gaps between them
_FEW, _SOME = 3, 20  # the fewest parameters of a cell's mean and of a bin's quantiles
_LABELS = {
    "share": "survival / N",
    "min-max": "survival, 0 to 1",
    "log-density": "-log10 density at death",
    "rank": "share of the parameters outlived",
}


def score_map(autos: AutoS, table: LookupTable) -> Chart:
    """Draw the learned score over the first two features, in root mean squares of a network (paper, section 6.1).

    A third feature has one view per value in 1e-4, 1e-2 and 1 times its mean.
    """
    features = autos.features
    units = dict.fromkeys(features.columns, 1.0)
    for name, gain, axis in zip(features.names, features.pick(features.gains), table.axes, strict=True):
        units[name] = gain / axis.gain  # Features that are not scaled have axes in units of their own.
    line = torch.linspace(-_REACH, _REACH, _CELLS, dtype=torch.float32)
    second, first = (values.reshape(-1).to(_device()) for values in torch.meshgrid(line, line, indexing="ij"))
    x, y, *others = features.columns
    half = _REACH / (_CELLS - 1)
    rows: list[dict[str, Any]] = []
    views: dict[str, View] = {}
    for value in _THIRD if others else (1.0,):
        title = ", ".join(f"{name} {value:g} of its mean" for name in others) or "learned score"
        columns = (first, second, *(torch.full_like(first, value) for _ in others))
        inputs = (values * unit for values, unit in zip(columns, units.values(), strict=True))
        scores = table.score(*inputs, scale=(1.0,) * len(columns)).tolist()
        cells = zip(first.tolist(), second.tolist(), scores, strict=True)
        rows += [_row(title, x=column - half, y=row - half, value=score) for column, row, score in cells]
        views[title] = _heat_map(title, (f"{x} / rms", f"{y} / rms", _LABELS[autos.label]), (2 * half, 2 * half))
    return Chart(rows=rows, views=views)


def survival_charts(autos: AutoS, store: TripleStore) -> Chart:
    """Draw survival and its prediction over theta and grad, as maps and as profiles (paper, Figures 1 and 4)."""
    triples = sample(store, _SAMPLE, seed=0)
    scale = scale_of_store(store)
    gradient = triples.grad * autos.features.gradient_factor(store)
    both = {
        "as it was": label_table(autos.label, store.densities)[triples.survival.numpy()],
        "as predicted": autos.score(triples.theta.to(_device()), gradient.to(_device()), scale=scale).cpu().numpy(),
    }
    pairs = zip((triples.theta.numpy(), triples.grad.numpy()), scale, strict=True)
    x, y = (values / rms for values, rms in pairs)
    limits = [float(np.quantile(np.abs(values), 0.998)) for values in (x, y)]
    edges = [np.linspace(-limit, limit, _CELLS) for limit in limits]
    name = _LABELS[autos.label]
    size = (edges[0][1] - edges[0][0], edges[1][1] - edges[1][0])
    low, high = np.quantile(both["as it was"], (0.02, 0.98)).tolist()
    rows: list[dict[str, Any]] = []
    views: dict[str, View] = {}
    for title, values in both.items():
        counts, *_ = np.histogram2d(x, y, bins=edges)
        sums, *_ = np.histogram2d(x, y, bins=edges, weights=values)
        for i, k in np.argwhere(counts >= _FEW):
            rows.append(_row(title, x=edges[0][i], y=edges[1][k], value=sums[i, k] / counts[i, k]))
        views[title] = _heat_map(title, ("theta / rms", "grad / rms", f"mean {name}"), size, (low, high))
    for feature, column, bins in (("theta", x, edges[0]), ("grad", y, edges[1])):
        title = f"from the side of {feature}"
        for series, values in both.items():
            rows += _profile(title, series, column, values, bins)
        views[title] = _bands(title, f"{feature} / rms", name, [*both])
    return Chart(rows=rows, views=views)


def initialization_chart(columns: Mapping[str, NDArray[Any]], survival: NDArray[Any]) -> Chart:
    """Draw the survival / N (P,) of random parameters against values at initialization (P,), one view per column."""
    drawn = np.random.default_rng(0).permutation(len(survival))[:_SAMPLE]
    rows: list[dict[str, Any]] = []
    views: dict[str, View] = {}
    for label, values in columns.items():
        low, high = (float(limit) for limit in np.quantile(values, [0.001, 0.999]))
        if low < high:
            rows += _profile(label, "survival", values[drawn], survival[drawn], np.linspace(low, high, _CELLS))
            views[label] = _bands(label, label, "survival / N", ["survival"])
    return Chart(rows=rows, views=views)


def _profile(
    view: str, series: str, x: NDArray[Any], values: NDArray[Any], edges: NDArray[Any]
) -> list[dict[str, Any]]:
    """Return mean and 10 and 90% quantiles of the values in each bin of x that has enough of them."""
    bins = np.digitize(x, edges)
    rows = []
    for k in range(1, len(edges)):
        inside = values[bins == k]
        if len(inside) >= _SOME:
            low, high = np.quantile(inside, [0.1, 0.9])
            middle = (edges[k - 1] + edges[k]) / 2
            rows.append({"series": series, **_row(view, x=middle, mean=inside.mean(), low=low, high=high)})
    return rows


def _row(view: str, **numbers: float) -> dict[str, Any]:
    """Return a row of a view with numbers of four digits."""
    return {"view": view, **{key: float(f"{number:.4g}") for key, number in numbers.items()}}


def _heat_map(
    view: str, titles: tuple[str, str, str], size: tuple[float, float], limits: tuple[float, float] | None = None
) -> alt.Chart:
    """Return cells whose rows have their lower left corner, in the color of their value between the limits.

    The titles are those of both axes and of the color.
    """
    x_title, y_title, value_title = titles
    width, height = size
    domain = [*limits] if limits else alt.Undefined
    color = alt.Color("value:Q").scale(scheme="viridis", zero=False, clamp=True, domain=domain)
    scale = alt.Scale(nice=False, zero=False)
    return (
        alt.Chart(ROWS)
        .transform_filter(alt.FieldEqualPredicate(field="view", equal=view))
        .transform_calculate(x2=f"datum.x + {_OVERLAP * width:.6g}", y2=f"datum.y + {_OVERLAP * height:.6g}")
        .mark_rect(strokeWidth=0)
        .encode(
            x=alt.X("x:Q", scale=scale).axis(title=x_title, grid=False, tickCount=5),
            y=alt.Y("y:Q", scale=scale).axis(title=y_title, grid=False, tickCount=5),
            x2="x2",
            y2="y2",
            color=color.legend(title=value_title, titleLimit=300),
            tooltip=[
                alt.Tooltip(f"{name}:Q", title=title, format=".3~g")
                for name, title in zip(("x", "y", "value"), titles, strict=True)
            ],
        )
    )


def _bands(view: str, x: str, y: str, series: Sequence[str]) -> alt.LayerChart:
    """Return the mean of each series as a line and its quantiles as a band, in a view with axes of these titles."""
    color, _ = series_encodings(number_series(series))
    legend = None if len(series) == 1 else alt.Legend(symbolOpacity=1, symbolType="stroke")
    scale = alt.Scale(zero=False)
    base = alt.Chart(ROWS).encode(
        x=alt.X("x:Q", scale=alt.Scale(nice=False, zero=False)).axis(title=x, tickCount=5), color=color.legend(legend)
    )
    band = base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q", scale=scale).axis(title=y), y2="high")
    tooltip = [alt.Tooltip(f"{name}:Q", format=".3~g") for name in ("x", "mean", "low", "high")]
    lines = base.mark_line().encode(
        y=alt.Y("mean:Q", scale=scale).axis(title=y),
        strokeDash=alt.StrokeDash("series:N", sort=[*series], legend=None),
        tooltip=[alt.Tooltip("series:N", title="which"), *tooltip],
    )
    return alt.LayerChart(layer=[band, lines]).transform_filter(alt.FieldEqualPredicate(field="view", equal=view))


def _device() -> torch.device:
    """Return the device on which a network scores thousands of points."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
