"""What AutoS has learned as charts: its map, survival as it was and as it is predicted, and beside what is known."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autosparse.autos import AutoS, LookupTable, scale_of_store
from autosparse.autos.labels import label_table
from autosparse.page import Chart, Spec, coded, numbered
from autosparse.store import TripleStore, sample

_SAMPLE = 20_000  # parameters drawn at random
_REACH, _CELLS = 4.0, 33  # of a map, from its middle in root mean squares, and along an axis
_BESIDE = (1e-4, 1e-2, 1.0)  # of its mean: flow, which a map cannot show on its axes
_OVERLAP = 1.05  # of cells, which would have gaps between them
_FEW = 3  # parameters of a cell that make a mean
_SOME = 20  # and of a bin that make quantiles
_LABELS = {
    "share": "survival / N",
    "min-max": "survival, 0 to 1",
    "log-density": "-log10 density at death",
    "rank": "share of the parameters outlived",
}


def learned_map(autos: AutoS, table: LookupTable) -> Chart:
    """The learned score over the first two features, in root mean squares of a network (paper, section 6.1).

    Drawn from the lookup table. A third feature has a view for each of some values.
    """
    line = torch.linspace(-_REACH, _REACH, _CELLS)
    second, first = (values.reshape(-1).to(_device()) for values in torch.meshgrid(line, line, indexing="ij"))
    one, other, *others = autos.features.columns
    half = _REACH / (_CELLS - 1)
    rows: list[dict[str, Any]] = []
    views: dict[str, Spec] = {}
    for value in _BESIDE if others else (1.0,):
        title = ", ".join(f"{name} {value:g} of its mean" for name in others) or "learned score"
        at = (first, second, *(torch.full_like(first, value) for _ in others))
        scores = table.score(*at, scale=(1.0,) * len(at)).cpu().numpy()
        cells = zip(first.tolist(), second.tolist(), scores.tolist(), strict=True)
        rows += [_cell(title, x - half, y - half, score) for x, y, score in cells]
        views[title] = _heat(title, f"{one} / rms", f"{other} / rms", _LABELS[autos.label], 2 * half, 2 * half)
    return Chart(rows=rows, views=views)


def truth_and_prediction(autos: AutoS, store: TripleStore) -> Chart:
    """Survival over theta and grad, and from both sides: as it was, and as predicted (paper, Figures 1 and 4)."""
    triples = sample(store, _SAMPLE, seed=0)
    scale = scale_of_store(store)
    both = {
        "as it was": label_table(autos.label, store.densities)[triples.survival.numpy()],
        "as predicted": autos.score(triples.theta.to(_device()), triples.grad.to(_device()), scale=scale).cpu().numpy(),
    }
    columns = (triples.theta.numpy(), triples.grad.numpy())
    x, y = (values / rms for values, rms in zip(columns, scale, strict=True))
    limits = [float(np.quantile(np.abs(values), 0.998)) for values in (x, y)]
    edges = [np.linspace(-limit, limit, _CELLS) for limit in limits]
    rows: list[dict[str, Any]] = []
    views: dict[str, Spec] = {}
    name = _LABELS[autos.label]
    width, height = (edge[1] - edge[0] for edge in edges)
    low, high = (float(np.quantile(both["as it was"], share)) for share in (0.02, 0.98))
    for title, values in both.items():
        counts, *_ = np.histogram2d(x, y, bins=edges)
        sums, *_ = np.histogram2d(x, y, bins=edges, weights=values)
        for i, k in np.argwhere(counts >= _FEW):
            rows.append(_cell(title, edges[0][i], edges[1][k], sums[i, k] / counts[i, k]))
        views[title] = _heat(title, "theta / rms", "grad / rms", f"mean {name}", width, height, (low, high))
    for feature, seen, edge in (("theta", x, edges[0]), ("grad", y, edges[1])):
        title = f"from the side of {feature}"
        for series, values in both.items():
            rows += _profile(title, series, seen, values, edge)
        views[title] = _bands(title, f"{feature} / rms", name, [*both])
    return Chart(rows=rows, views=views)


def survival_beside(columns: Mapping[str, NDArray[Any]], survival: NDArray[Any]) -> Chart:
    """Survival of parameters drawn at random beside what is known of them at initialization, a view a column.

    Args:
        columns: by axis label, values (P,).
        survival: share of the iterations survived, (P,).
    """
    chosen = np.random.default_rng(0).permutation(len(survival))[:_SAMPLE]
    rows: list[dict[str, Any]] = []
    views: dict[str, Spec] = {}
    for label, values in columns.items():
        low, high = (float(limit) for limit in np.quantile(values, [0.001, 0.999]))
        if low < high:
            edges = np.linspace(low, high, _CELLS)
            rows += _profile(label, "survival", values[chosen], survival[chosen], edges)
            views[label] = _bands(label, label, "survival / N", ["survival"])
    return Chart(rows=rows, views=views)


def _profile(
    view: str, series: str, x: NDArray[Any], values: NDArray[Any], edges: NDArray[Any]
) -> list[dict[str, Any]]:
    """Mean and 10 and 90% quantiles of the values in each bin of x that has some."""
    places = np.digitize(x, edges)
    rows = []
    for k in range(1, len(edges)):
        here = values[places == k]
        if len(here) >= _SOME:
            low, high = np.quantile(here, [0.1, 0.9])
            row = {"x": (edges[k - 1] + edges[k]) / 2, "mean": here.mean(), "low": low, "high": high}
            rows.append({"view": view, "series": series, **{key: _short(value) for key, value in row.items()}})
    return rows


def _cell(view: str, x: float, y: float, value: float) -> dict[str, Any]:
    """A cell of a map by its lower left corner."""
    return {"view": view, "x": _short(x), "y": _short(y), "value": _short(value)}


def _heat(
    view: str, x: str, y: str, value: str, width: float, height: float, limits: tuple[float, float] | None = None
) -> Spec:
    """Cells coloured by their value, between limits if there are some."""
    colored: Spec = {
        "field": "value",
        "type": "quantitative",
        "scale": {"scheme": "viridis", "zero": False, "clamp": True} | ({"domain": [*limits]} if limits else {}),
        "legend": {"title": value, "titleLimit": 300},
    }
    axis = {"grid": False, "tickCount": 5}
    where: Spec = {
        name: {"field": name, "type": "quantitative", "scale": {"nice": False, "zero": False}}
        | {"axis": {**axis, "title": title}}
        for name, title in (("x", x), ("y", y))
    }
    return {
        "transform": [
            {"filter": {"field": "view", "equal": view}},
            {"calculate": f"datum.x + {_OVERLAP * width:.6g}", "as": "x2"},
            {"calculate": f"datum.y + {_OVERLAP * height:.6g}", "as": "y2"},
        ],
        "mark": {"type": "rect", "strokeWidth": 0},
        "encoding": {
            **where,
            "x2": {"field": "x2"},
            "y2": {"field": "y2"},
            "color": colored,
            "tooltip": [
                {"field": key, "title": title, "type": "quantitative", "format": ".3~g"}
                for key, title in (("x", x), ("y", y), ("value", value))
            ],
        },
    }


def _bands(view: str, x: str, y: str, series: list[str]) -> Spec:
    """The mean of each series as a line, its quantiles as a band."""
    color, _ = coded(numbered(series))
    color["legend"] = None if len(series) == 1 else {"symbolOpacity": 1, "symbolType": "stroke"}
    across: Spec = {
        "field": "x",
        "type": "quantitative",
        "scale": {"nice": False, "zero": False},
        "axis": {"title": x, "tickCount": 5},
    }
    up: Spec = {"type": "quantitative", "axis": {"title": y}, "scale": {"zero": False}}
    tooltip = [
        {"field": "series", "title": "which"},
        *({"field": key, "type": "quantitative", "format": ".3~g"} for key in ("x", "mean", "low", "high")),
    ]
    return {
        "transform": [{"filter": {"field": "view", "equal": view}}],
        "layer": [
            {
                "mark": {"type": "area", "opacity": 0.2},
                "encoding": {"x": across, "y": {**up, "field": "low"}, "y2": {"field": "high"}, "color": color},
            },
            {
                "mark": "line",
                "encoding": {
                    "x": across,
                    "y": {**up, "field": "mean"},
                    "color": color,
                    "strokeDash": {"field": "series", "type": "nominal", "sort": series, "legend": None},
                    "tooltip": tooltip,
                },
            },
        ],
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _device() -> torch.device:
    """Where a network scores thousands of points: on a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
