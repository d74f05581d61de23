"""The numbers in charts: their rows, their axes, and where the marks are drawn."""

import itertools
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from autosparse.autos import AutoS, Features, LookupTable
from autosparse.autos.lookup_table import Axis
from autosparse.page import Chart, number_series
from autosparse.study import charts, learned


def means(*values: float, sparsities: Sequence[float] = (0.98,), std: float = 0.0) -> pd.DataFrame:
    rows = zip(values, itertools.cycle(sparsities), strict=False)
    return pd.DataFrame([{"mean": mean, "std": std, "sparsity": sparsity} for mean, sparsity in rows])


def curves(**series: tuple[float, ...]) -> pd.DataFrame:
    """Two runs of each series at 80, 90 and 98%, with these accuracies in per cent as means and 1 as deviation."""
    rows = [
        {"criterion": name, "sparsity": sparsity, "test": (mean + sign * math.sqrt(0.5)) / 100}
        for name, values in series.items()
        for sparsity, mean in zip((0.8, 0.9, 0.98), values, strict=True)
        for sign in (-1, 1)
    ]
    iterative = [row["criterion"] == "irp" for row in rows]
    others = {"test_best": None, "test_best_validation": None, "metric": "accuracy", "better": "higher"}
    return pd.DataFrame(rows).assign(iterative=iterative, **others)


def results(**columns: Any) -> pd.DataFrame:
    """Rows of `results.load` of two seeds, as far as charts read them."""
    defaults = {"criterion": "snip", "sparsity": 0.9, "metric": "accuracy", "better": "higher", "cost": 1.0}
    return pd.DataFrame({"seed": [0, 1], "folder": ["a", "b"], **defaults, **columns})


def sparsity_chart(rows: pd.DataFrame, dense: pd.DataFrame) -> Chart:
    return charts.sparsity_chart(rows, dense, number_series(rows["criterion"]))


def drawn(chart: Chart, mark: str) -> Iterator[tuple[float, float]]:
    """Pixels of the marks of a kind, in the order in which they are drawn."""
    for group in ET.fromstring(chart.svg()).iter():
        if f"mark-{mark} role-mark" in (group.get("class") or ""):
            for element in group:
                x, y = re.findall(r"[-\d.]+", element.get("transform") or "")
                yield float(x), float(y)


@pytest.mark.parametrize(
    ("metric", "better", "chance", "others"),
    [("accuracy", "higher", 10.0, (90.0, 91.0, 92.0)), ("loss", "lower", 9.0, (2.0, 2.1, 2.2))],
)
def test_point_at_chance_lies_beyond_the_axis(
    metric: str, better: str, chance: float, others: tuple[float, ...]
) -> None:
    low, high, cut = charts.axis_limits(means(chance, *others * 3), metric, better)
    assert cut
    assert not low <= chance <= high
    assert low < min(others) < max(others) < high


def test_axis_fits_close_points_and_ends_at_100_for_accuracies() -> None:
    assert charts.axis_limits(means(80.0, 85.0, 90.0), "accuracy", "higher") == (79.5, 90.5, False)
    assert charts.axis_limits(means(99.9), "accuracy", "higher")[:2] == (99.4, 100.0)
    assert charts.axis_limits(means(99.9), "loss", "lower")[:2] == (99.4, 100.4)


def test_axis_has_most_points_of_every_sparsity() -> None:
    points = means(90, 60, 91, 59, 92, 40, 90, 80, 90, 61, 90, 2, sparsities=(0.9, 0.99))
    low, _, cut = charts.axis_limits(points, "accuracy", "higher")
    assert 2 < low < 40
    assert cut


def test_spread_has_mean_and_deviation_in_per_cent() -> None:
    rows = pd.concat([results(test=[0.8, 0.9]), results(criterion="random", test=[0.5, math.nan])])
    spread = charts.spread(rows, ["criterion"])
    assert spread["criterion"].tolist() == ["snip", "random"]
    assert spread["mean"].tolist() == pytest.approx([85, 50])
    assert spread["std"].tolist() == pytest.approx([10 / math.sqrt(2), 0])
    assert spread["runs"].tolist() == [2, 1]


def test_sparsity_chart_draws_each_mean_at_its_place() -> None:
    dense = pd.DataFrame({"test": [0.95, 0.97]})
    chart = sparsity_chart(curves(snip=(90, 80, 70), irp=(95, 90, 85)), dense)
    assert [(row["series"], row["density"], row["mean"], row["std"]) for row in chart.rows[:3]] == [
        ("snip", 20, 90, 1),
        ("snip", 10, 80, 1),
        ("snip", 2, 70, 1),
    ]
    assert chart.rows[-1] == {"measure": "test", "dense": 96.0}
    assert [(row["name"], row["at"]) for row in chart.rows if "at" in row] == [("snip", 70), ("irp", 85), ("dense", 96)]
    assert not chart.cut
    assert chart.choices == {"measure": ["test"]}
    low, high, _ = charts.axis_limits(
        means(90, 80, 70, 95, 90, 85, sparsities=(0.8, 0.9, 0.98)).assign(std=1.0), "accuracy", "higher"
    )
    domain = math.log(1.8), math.log(22)
    expected = [
        (640 * (domain[1] - math.log(density)) / (domain[1] - domain[0]), 360 * (high - mean) / (high - low))
        for values in ((90, 80, 70), (95, 90, 85))
        for density, mean in zip((20, 10, 2), values, strict=True)
    ]
    assert [*drawn(chart, "symbol")][:6] == pytest.approx(np.array(expected), abs=0.01)
    assert [y for _, y in drawn(chart, "symbol")][6:] == pytest.approx([expected[2][1], expected[5][1]], abs=0.01)
    assert len([*drawn(chart, "rule")]) == 7  # the standard deviations and the dense network


def test_labels_of_close_lines_are_a_line_apart_and_within_the_axis() -> None:
    values = {name: (95.0, 94.0, 93.0 + 0.01 * k) for k, name in enumerate("abcde")}
    chart = sparsity_chart(curves(**values), pd.DataFrame({"test": [0.93]}))
    low, high, _ = charts.axis_limits(
        means(95, 94, 93, sparsities=(0.8, 0.9, 0.98)).assign(std=1.0), "accuracy", "higher"
    )
    at = {row["name"]: row["at"] for row in chart.rows if "at" in row}
    assert [*at] == ["a", "dense", "b", "c", "d", "e"]
    assert (np.diff([*at.values()]) >= 14 / 360 * (high - low)).all()
    assert low <= min(at.values()) < max(at.values()) <= high


def test_label_of_a_point_beyond_the_axis_is_missing() -> None:
    good = dict.fromkeys("abcdefgh", (90.0, 89.0, 88.0))
    chart = sparsity_chart(curves(**good, chance=(80.0, 50.0, 10.0)), pd.DataFrame())
    assert chart.cut
    assert "chance" not in [row.get("name") for row in chart.rows]


@pytest.mark.parametrize(
    ("sparsities", "labels"),
    [((0.5, 0.9, 0.995), ["50%", "80%", "90%", "95%", "98%", "99%", "99.5%"]), ((0.93, 0.94, 0.96), ["93%", "96%"])],
)
def test_sparsity_axis_has_round_ticks_or_else_those_of_the_points(
    sparsities: tuple[float, ...], labels: list[str]
) -> None:
    rows = curves(snip=(90, 80, 70)).assign(sparsity=lambda frame: np.repeat(sparsities, 2))
    svg = sparsity_chart(rows, pd.DataFrame()).svg()
    assert {*labels} <= {*re.findall(r">([\d.]+%)<", svg)}


def test_axis_says_the_number_of_runs() -> None:
    rows = curves(snip=(90, 80, 70), irp=(95, 90, 85))
    assert "(± std, n = 2)" in sparsity_chart(rows, pd.DataFrame()).svg()
    assert "(± std, n = 1 to 2)" in sparsity_chart(rows[1:], pd.DataFrame()).svg()


def test_dense_network_that_was_not_measured_has_no_line() -> None:
    chart = sparsity_chart(curves(snip=(90, 80, 70)), pd.DataFrame({"test": [None]}))
    assert chart.rows[-1] == {"measure": "test", "dense": None}
    assert ">dense<" not in chart.svg()


def test_series_keeps_its_color_where_others_are_missing() -> None:
    chart = charts.sparsity_chart(curves(b=(90, 80, 70)), pd.DataFrame(), {"a": 0, "b": 1, "c": 2})
    assert chart.series == {"b": 1}


@pytest.mark.parametrize(("metric", "better", "times"), [("accuracy", "higher", 100), ("loss", "lower", 1)])
def test_cost_chart_has_one_point_per_criterion_and_sparsity(metric: str, better: str, times: int) -> None:
    values = {"short": (2.0, 0.80, 0.82), "ahead": (2.0, 0.90, 0.92), "far": (3.0, 0.95, 0.95)}
    rows = [results(criterion=name, cost=cost, test=tests) for name, (cost, *tests) in values.items()]
    rows.append(results(criterion="short", sparsity=0.98, cost=4.0, test=[0.7, 0.7]))
    chart = charts.cost_chart(pd.concat(rows).assign(metric=metric, better=better), number_series(values))
    assert [*chart.views] == ["90% sparsity", "98% sparsity"]
    assert [(row["series"], row["sparsity"], row["cost"], row["runs"]) for row in chart.rows] == [
        ("short", 0.9, 2.0, 2),
        ("ahead", 0.9, 2.0, 2),
        ("far", 0.9, 3.0, 2),
        ("short", 0.98, 4.0, 2),
    ]
    assert [row["mean"] for row in chart.rows] == pytest.approx([times * mean for mean in (0.81, 0.91, 0.95, 0.7)])
    (x_short, y_short), (x_ahead, y_ahead), (x_far, _), *_ = drawn(chart, "symbol")
    assert x_short < x_ahead < x_far  # criteria of one cost are next to each other
    assert (y_ahead < y_short) == (better == "higher")  # better is higher up


def test_layer_chart_has_mean_densities_without_empty_layers() -> None:
    densities = [{"fc1.weight": 0.1, "fc2.weight": 0.0}, {"fc1.weight": 0.3, "fc2.weight": 0.0}]
    chart = charts.layer_chart(results(layer_densities=densities), {"snip": 0})
    assert chart.rows == [{"series": "snip", "sparsity": 0.9, "layer": "fc1", "density": 20.0}]
    assert [*chart.views] == ["90% sparsity"]
    svg = charts.layer_chart(results(layer_densities=[{"fc1.weight": 1.0, "fc2.weight": 1.0}] * 2), {"snip": 0}).svg()
    assert re.findall(r">(\d[\d.]*)<", svg) == ["100"]  # layers of one density have one tick


def test_check_chart_draws_each_check_from_left_to_right() -> None:
    checks = {"as it is": 0.9, "shuffled": 0.8, "inverted": 0.5}
    rows = pd.concat([results(check=check, test=test) for check, test in checks.items()])
    chart = charts.check_chart(rows, {"snip": 0})
    assert {row["check"]: row["mean"] for row in chart.rows} == {"as it is": 90, "shuffled": 80, "inverted": 50}
    x, y = zip(*drawn(chart, "symbol"), strict=True)
    assert list(y) == sorted(y)
    assert (x[0] - x[1]) / (x[1] - x[2]) == pytest.approx(1 / 3, rel=1e-3)


def test_training_chart_has_the_epochs_of_every_run() -> None:
    metric = {"metric": "accuracy"}
    history = [{**metric, "epoch": epoch, "loss": 1 / epoch, "test": epoch / 10} for epoch in (1, 2, 3)]
    chart = charts.training_chart(results(), {"a": history, "b": history[:2]}, {"snip": 0})
    first, second = chart.rows
    assert (first["epoch"], first["test"], first["loss"]) == ([1, 2, 3], [10, 20, 30], [1, 0.5, 0.333333])
    assert (first["validation"], second["seed"], second["test"]) == ([None] * 3, 1, [10, 20])
    assert len([*drawn(chart, "symbol")]) == 5


def test_long_training_run_is_thinned_to_50_epochs() -> None:
    history = [{"epoch": epoch, "loss": math.inf, "test": 0.5, "metric": "accuracy"} for epoch in range(1, 161)]
    curve = charts.thin(history, ["accuracy"])
    assert (len(curve["epoch"]), curve["epoch"][0], curve["epoch"][-1]) == (50, 1, 160)
    assert (sum(mark == 1 for mark in curve["marked"]), curve["marked"][-1]) == (10, 1)
    assert set(curve["loss"]) == {None}


def test_curves_have_all_metrics() -> None:
    epoch = {"epoch": 1, "metric": "dice", "test": 0.5, "more": {"accuracy": 0.25}}
    mask = {"epoch": 1, "metric": "dice", "test": 0.5, "test/accuracy": 0.25}  # of iterative pruning
    for row in (epoch, mask):
        curve = charts.thin([row], ["dice", "accuracy", "iou", "dice"])
        assert [curve[f"test{number}"] for number in ("", " 1", " 2", " 3")] == [[0.5], [25], [None], [0.5]]


def test_profile_has_mean_and_quantiles_of_each_bin() -> None:
    values = np.tile(np.arange(0, 1, 0.01), 20)
    chart = learned.initialization_chart({"theta": values, "constant": np.ones(2000)}, 2 * values)
    assert [*chart.views] == ["theta"]
    for row in chart.rows:
        assert row["mean"] == pytest.approx(2 * row["x"], abs=0.03)
        assert row["low"] < row["mean"] < row["high"]


@pytest.mark.parametrize("transform", ["scaled", "raw"])
def test_learned_score_is_drawn_in_root_mean_squares(transform: str) -> None:
    features = Features(transform)
    units = (1.0, 1.0) if transform == "scaled" else (0.5, 0.01)
    even = torch.linspace(0.0, 1.0, 3)
    axes = [Axis(gain / unit, -8.0, 8.0, even) for gain, unit in zip(features.gains, units, strict=True)]
    coordinates = axes[0].nodes(65).float()
    table = LookupTable(features, (axes[0], axes[1]), coordinates[:, None].expand(65, 65).contiguous())
    chart = learned.score_map(AutoS(nn.Identity(), "mlp", features, {"fit": {"label": "share"}}), table)
    for row in chart.rows:  # The score is the coordinate of theta, asinh(3 theta / rms).
        assert row["value"] == pytest.approx(math.asinh(3 * (row["x"] + 0.125)), abs=2e-3)
