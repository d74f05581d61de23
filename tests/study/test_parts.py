"""Comparisons at equal cost, and the experiment that looks ahead."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from autosparse import study
from autosparse.jobs import FitRun, IRPRun, PruneRun
from autosparse.page import Document
from autosparse.study import compare, results
from autosparse.study.parts import Comparison, Method
from autosparse.study.scale import SCALES

METHODS = (
    Method("short", "short-irp", family="short"),
    Method("ahead", "lookahead", family="ahead"),
    Method("far", "lookahead", how={"rounds": 10}, family="ahead"),
    Method("GMP", "gmp", how={"trainings": 2}),  # without a family: in the table alone
)
VALUES = {"short": (0.80, 0.82), "ahead": (0.90, 0.92), "far": (0.95, 0.95), "GMP": (0.81, 0.83)}
COSTS = {"short": 2.0, "ahead": 2.0, "far": 3.0, "GMP": 2.0}


@pytest.fixture
def part() -> Comparison:
    scale = SCALES["smoke"]
    return Comparison(
        title="T", stem="t", scale=scale, pair="lenet/mnist", methods=METHODS, sparsities=(0.9,), cost=True
    )


def rows(better: str = "higher") -> pd.DataFrame:
    values = [
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
    return pd.DataFrame(values)


def test_method_better_by_two_deviations_at_its_cost_is_bold(part: Comparison) -> None:
    table = part.cost_table(rows())
    assert list(table["cost"]) == ["2.0", "2.0", "3.0", "2.0"]
    assert table["90%"].to_dict() == {
        "short": "81.00 ± 1.41",
        "ahead": "**91.00 ± 1.41**",  # nine points, of deviations of 1.4
        "far": "95.00 ± 0.00",  # nothing else costs as much
        "GMP": "82.00 ± 1.41",
    }
    lower = part.cost_table(rows("lower"))["90%"]
    assert not lower.str.startswith("**").any()  # short is better than GMP by a point only


def test_bold_cell_is_bold_in_html_and_markdown(part: Comparison, tmp_path: Path) -> None:
    document = Document(tmp_path)
    document.table(part.cost_table(rows()))
    assert "<b>91.00 ± 1.41</b>" in document.write().read_text()
    assert "| **91.00 ± 1.41** |" in (tmp_path / "report.md").read_text()


def test_cost_of_iterative_pruning_ends_at_the_first_mask_as_sparse() -> None:
    masks = pd.DataFrame(
        {"iteration": range(4), "density": (1.0, 0.3, 0.1, 0.03), "test": (0.9, 0.8, 0.7, 0.6), "folder": "a"}
    )
    reached = compare.reached(masks, 0.9)
    assert reached[["cost", "test", "density"]].iloc[0].tolist() == pytest.approx([3.0, 0.7, 0.1])
    assert compare.reached(masks, 0.95)["cost"].tolist() == [4.0]
    assert compare.reached(masks, 0.99).empty


@pytest.mark.parametrize("name", ["small", "full", "smoke"])
def test_lookahead_experiment_has_baselines_at_equal_cost(name: str, tmp_path: Path) -> None:
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
def test_lookahead_experiment_at_smoke_scale(script: Any, tmp_path: Path) -> None:
    assert script("paper", "lookahead", "--scale", "smoke", "--output", tmp_path) == 0
    report = (tmp_path / "paper" / "lookahead" / "report.md").read_text()
    assert report.count("### Looking ahead") == 2
    assert "| AutoS, looking ahead | 2.0 |" in report
    assert (tmp_path / "paper" / "lookahead" / "lookahead" / "table.safetensors").is_file()
    frame = results.load(tmp_path)
    assert set(frame["cost"].round(1)) >= {1.0, 2.0}
