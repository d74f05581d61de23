"""Methods at equal cost, and the plan that looks ahead."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from autosparse import study
from autosparse.jobs import FitRun, IRPRun, PruneRun
from autosparse.page import Document
from autosparse.study import charts, compare, results
from autosparse.study.costs import AtCost
from autosparse.study.parts import Method
from autosparse.study.scale import SCALES

METHODS = (
    Method("short", "short-irp", family="short"),
    Method("ahead", "lookahead", family="ahead"),
    Method("far", "lookahead", how={"rounds": 10}, family="ahead"),
    Method("GMP", "gmp", how={"trainings": 2}),  # of no family: in the table alone
)
VALUES = {"short": (0.80, 0.82), "ahead": (0.90, 0.92), "far": (0.95, 0.95), "GMP": (0.81, 0.83)}
COSTS = {"short": 2.0, "ahead": 2.0, "far": 3.0, "GMP": 2.0}


@pytest.fixture
def part() -> AtCost:
    scale = SCALES["smoke"]
    return AtCost(title="T", stem="t", scale=scale, pair="lenet/mnist", methods=METHODS, sparsities=(0.9,))


def rows(better: str = "higher") -> pd.DataFrame:
    found = [
        {
            "method": name,
            "family": method.family,
            "at": 0.9,
            "cost": COSTS[name],
            "test": value,
            "metric": "accuracy" if better == "higher" else "loss",
            "better": better,
            "recipe": "{}",
        }
        for method in METHODS
        for name in [method.label]
        for value in VALUES[name]
    ]
    return pd.DataFrame(found)


def test_the_best_of_its_cost_is_bold_where_two_deviations_lie_between(part: AtCost) -> None:
    table = part._table(rows(), "accuracy", "higher")
    assert list(table["cost"]) == ["2.0", "2.0", "3.0", "2.0"]
    assert table["90%"].to_dict() == {
        "short": "81.00 ± 1.41",
        "ahead": "**91.00 ± 1.41**",  # nine points, of deviations of 1.4
        "far": "95.00 ± 0.00",  # nothing else costs as much
        "GMP": "82.00 ± 1.41",
    }
    lower = part._table(rows("lower"), "loss", "lower")["90%"]
    assert not lower.str.startswith("**").any()  # short is better than GMP by a point only


def test_what_is_bold_is_so_in_both_pages(part: AtCost, tmp_path: Path) -> None:
    document = Document(tmp_path)
    document.table(part._table(rows(), "accuracy", "higher"))
    assert "<b>91.00 ± 1.41</b>" in document.write().read_text()
    assert "| **91.00 ± 1.41** |" in (tmp_path / "report.md").read_text()


def test_iterative_pruning_costs_the_trainings_until_it_is_as_sparse() -> None:
    masks = pd.DataFrame(
        {"iteration": range(4), "density": (1.0, 0.3, 0.1, 0.03), "test": (0.9, 0.8, 0.7, 0.6), "folder": "a"}
    )
    reached = compare.reached(masks, 0.9)
    assert reached[["cost", "test", "density"]].iloc[0].tolist() == pytest.approx([3.0, 0.7, 0.1])
    assert compare.reached(masks, 0.95)["cost"].tolist() == [4.0]
    assert compare.reached(masks, 0.99).empty


def test_the_chart_has_a_point_a_method_and_a_line_a_family() -> None:
    chart = charts.against_cost({"here": rows(), "loss": rows("lower")})
    assert [*chart.series] == ["short", "ahead"]
    for panel, times in (("here", 100), ("loss", 1)):
        points = [row for row in chart.rows if row["panel"] == panel]
        assert [(row["series"], row["cost"], row["runs"]) for row in points] == [
            ("short", 2.0, 2),
            ("ahead", 2.0, 2),
            ("ahead", 3.0, 2),
        ]
        assert [row["mean"] for row in points] == pytest.approx([times * mean for mean in (0.81, 0.91, 0.95)])
        assert points[0]["at"] != points[1]["at"]  # beside each other
        y = chart.views[panel]["layer"][-1]["encoding"]["y"]
        assert y["scale"]["reverse"] == (panel == "loss")  # better is higher up


@pytest.mark.parametrize("name", ["small", "full", "smoke"])
def test_the_plan_has_its_rivals_at_equal_cost(name: str, tmp_path: Path) -> None:
    scale = study.find_scale("lookahead", name, tmp_path)
    stages = {stage.name: stage for stage in study.stages(["lookahead"], scale)}
    runs: Any = stages["irp"].jobs
    labelled = [run for run in runs if run.config.probe_steps]
    assert all(isinstance(run, IRPRun) and run.config.criterion == "magnitude" for run in runs)
    assert {run.config.seed for run in labelled}.isdisjoint(scale.seeds)
    assert all(isinstance(job, FitRun) and job.config.looks_ahead for job in stages["autos"].jobs)
    pruned: Any = [*stages["prune"].jobs, *stages["prune-autos"].jobs]
    assert all(isinstance(job, PruneRun) and job.config.seed in scale.seeds for job in pruned)
    by = {(job.config.criterion, job.config.trainings) for job in pruned}
    assert {("short-irp", 1), ("snip-probe", 1), ("gmp", 1), ("gmp", 2), ("rigl", 1), ("rigl", 2)} <= by
    for run in labelled:  # the steps of a probe are a fifth of those of a training, that of short IRP by default
        assert f"_k{run.config.probe_steps}_" in run.folder.name
    assert re.match(r"in all: \d+ jobs, \d+ trainings", study.describe([*stages.values()])[-1])


@pytest.mark.long
def test_the_plan_at_the_scale_of_a_trial(script: Any, tmp_path: Path) -> None:
    assert script("paper", "lookahead", "--scale", "smoke", "--output", tmp_path) == 0
    report = (tmp_path / "paper" / "lookahead" / "report.md").read_text()
    assert report.count("### Looking ahead") == 2
    assert "| AutoS, looking ahead | 2.0 |" in report
    assert (tmp_path / "paper" / "lookahead" / "lookahead" / "table.safetensors").is_file()
    frame = results.load(tmp_path)
    assert set(frame["cost"].round(1)) >= {1.0, 2.0}
