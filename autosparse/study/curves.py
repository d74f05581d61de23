"""How trainings went, as charts: every run of a report, and one run alone."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from autosparse.metrics import factor, label
from autosparse.page import Chart, Spec, coded, numbered
from autosparse.study.compare import metric_of
from autosparse.study.encodings import SHOWN, Codes, chosen, number_of, title_of, tooltip_of

CURVES = {"test": "test", "validation": "validation", "loss": "training loss"}
"""What training curves show, by the key of a run's history."""
_EPOCHS, _MARKED = 50, 10  # points of a training curve, at most, and those with a marker


def training_curves(
    pruned: pd.DataFrame, histories: Mapping[str, Sequence[Mapping[str, Any]]], codes: Codes = None
) -> Chart:
    """Every training, a line a run, a view a sparsity; the parameter `curve` is a key of `CURVES`.

    Args:
        pruned: rows of `results.load`.
        histories: of each run by its folder, the epochs.
        codes: see `Codes`.
    """
    metric, _ = metric_of(pruned)
    series = chosen(pruned["criterion"], codes)
    color, shape = coded(series)
    rows = [
        {"series": row.criterion, "sparsity": row.sparsity, "seed": row.seed, **curve(histories[row.folder], metric)}
        for row in pruned.itertuples()
    ]
    return Chart(
        rows=rows,
        views={
            title_of(sparsity): {
                "transform": [
                    {"filter": {"field": "sparsity", "equal": sparsity}},
                    SHOWN,
                    {"flatten": ["epoch", "marked", *CURVES]},
                    {"calculate": "datum[curve]", "as": "value"},
                    {"filter": "isValid(datum.value)"},
                ],
                "layer": [
                    {
                        "mark": {"type": "line", "opacity": 0.75, "strokeWidth": 1.3},
                        "encoding": {**_over_epochs(), "color": color, "detail": {"field": "seed"}},
                    },
                    {
                        "transform": [{"filter": "isValid(datum.marked)"}],
                        "mark": {"type": "point", "size": 28},
                        "encoding": {
                            **_over_epochs(),
                            "color": color,
                            "shape": shape,
                            "tooltip": tooltip_of(series="", seed="seed", epoch="epoch", value="value"),
                        },
                    },
                ],
            }
            for sparsity in sorted(pruned["sparsity"].unique())
        },
        series=series,
        choices={"curve": [*CURVES]},
    )


def one_training(history: Sequence[Mapping[str, Any]], metric: str) -> Chart:
    """The training of one run: the metric on the test and the validation split, and the loss."""
    thin = curve(history, metric)
    rows = [
        {"series": CURVES[key], "epoch": epoch, "value": value}
        for key in CURVES
        for epoch, value in zip(thin["epoch"], thin[key], strict=True)
        if value is not None
    ]
    series = (CURVES["test"], CURVES["validation"])
    return Chart(
        rows=rows,
        views={
            f"{label(metric)}, test and validation": _lines(series, _over_epochs()),
            CURVES["loss"]: _lines([CURVES["loss"]], _over_epochs()),
        },
    )


def masks_of(history: Sequence[Mapping[str, Any]], metric: str) -> Chart:
    """The masks of one run of IRP: the metric of each."""
    rows = [
        {"series": "test", "epoch": row["iteration"], "value": number_of(factor(metric) * row["test"])}
        for row in history
    ]
    axes = _over_epochs("iteration")
    return Chart(rows=rows, views={f"test {label(metric)} of each mask": _lines(["test"], axes)})


def losses_of(losses: Sequence[float]) -> Chart:
    """The loss of a fit by epoch."""
    rows = [{"series": "loss", "epoch": epoch, "value": number_of(loss)} for epoch, loss in enumerate(losses, 1)]
    return Chart(rows=rows, views={"loss of the fit": _lines(["loss"], _over_epochs())})


def curve(history: Sequence[Mapping[str, Any]], metric: str) -> dict[str, list[float | None]]:
    """The epochs of a run as parallel lists, at most some fifty, first and last included; shares in per cent.

    `marked` is 1 where the curve has a marker, the last epoch included.
    """
    chosen = [*history]
    if len(chosen) > _EPOCHS:
        chosen = [chosen[round(k)] for k in np.linspace(0, len(chosen) - 1, _EPOCHS)]
    times = {"test": factor(metric), "validation": factor(metric), "loss": 1.0}
    found: dict[str, list[float | None]] = {"epoch": [row["epoch"] for row in chosen]}
    few = -(-len(chosen) // _MARKED)
    found["marked"] = [1 if k % few == 0 else None for k in reversed(range(len(chosen)))]
    for key in CURVES:
        values = [row.get(key) for row in chosen]
        found[key] = [None if value is None else number_of(times[key] * value) for value in values]
    return found


def _lines(series: Collection[str], axes: Spec) -> Spec:
    """Lines of those series with their markers."""
    color, shape = coded(numbered(series))
    color["legend"] = shape["legend"] = None if len(series) == 1 else {}
    tooltip = tooltip_of(series="", epoch=axes["x"]["axis"]["title"], value="value")
    return {
        "transform": [{"filter": {"field": "series", "oneOf": [*series]}}],
        "height": 240,
        "layer": [
            {"mark": "line", "encoding": {**axes, "color": color}},
            {
                "mark": {"type": "point", "size": 36},
                "encoding": {**axes, "color": color, "shape": shape} | {"tooltip": tooltip},
            },
        ],
    }


def _over_epochs(title: str = "epoch") -> Spec:
    return {
        "x": {
            "field": "epoch",
            "type": "quantitative",
            "scale": {"zero": False, "nice": False, "padding": 8},
            "axis": {"title": title, "tickMinStep": 1, "format": "d"},
        },
        "y": {"field": "value", "type": "quantitative", "scale": {"zero": False}, "axis": {"title": None}},
    }
