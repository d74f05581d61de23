"""Comparisons at equal cost, and the experiment that looks ahead."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from autosparse import study
from autosparse.jobs import FitRun, IRPRun, PruneRun
from autosparse.page import Document
from autosparse.study import results
from autosparse.study.parts import Agreement, Comparison, Method
from autosparse.study.scale import SCALES
from tests.study.test_compare import store

METHODS = (
    Method("short", "short-irp", family="short", paper={0.9: 80.5, 0.99: 70.0}),
    Method("ahead", "lookahead", family="ahead"),
    Method("far", "lookahead", how={"rounds": 10}, family="ahead"),
    Method("GMP", "gmp", how={"trainings": 2}),  # without a family: in the table alone
    Method("IRP", None),
)
VALUES = {"short": (0.80, 0.82), "ahead": (0.90, 0.92), "far": (0.95, 0.95), "GMP": (0.81, 0.83), "IRP": (0.96, 0.98)}
COSTS = {"short": 2.0, "ahead": 2.0, "far": 3.0, "GMP": 2.0, "IRP": 9.0}


def comparison(*sparsities: float, **how: Any) -> Comparison:
    scale = replace(SCALES["smoke"], seeds=(7, 8))
    return Comparison("T", "t", scale, "lenet/mnist", METHODS, sparsities, **how)


def rows(metric: str = "accuracy", **more: Any) -> pd.DataFrame:
    """Results of two seeds of each method at 90%."""
    better = "higher" if metric == "accuracy" else "lower"
    common = {"at": 0.9, "sparsity": 0.9, "check": "none", "metric": metric, "better": better, "recipe": "{}"} | more
    values = [
        {"method": m.label, "family": m.family, "cost": COSTS[m.label], "test": test, "test_best": test + 0.01}
        for m in METHODS
        for test in VALUES[m.label]
    ]
    return pd.DataFrame(values).assign(**common)


def test_method_better_by_two_deviations_at_its_cost_is_bold() -> None:
    table = comparison(0.9, 0.95, cost=True).cost_table(rows())
    assert table["cost"].to_dict() == {"short": "2.0", "ahead": "2.0", "far": "3.0", "GMP": "2.0", "IRP": "–"}
    assert table["90%"].to_dict() == {
        "short": "81.00 ± 1.41",
        "ahead": "**91.00 ± 1.41**",  # nine points, of deviations of 1.4
        "far": "95.00 ± 0.00",  # nothing else costs as much
        "GMP": "82.00 ± 1.41",
        "IRP": "97.00 ± 1.41 (9)",
    }
    assert set(table["95%"]) == {"–"}
    lower = comparison(0.9, 0.95, cost=True).cost_table(rows("loss"))["90%"]
    assert not lower.str.startswith("**").any()  # short is better than GMP by a point only


def test_table_has_the_papers_number_and_the_difference() -> None:
    part = comparison(0.9, 0.95)
    assert part.measure_table(rows(), "test_best")["90%"].to_dict() == {
        "short": "80.50 → 82.00 ± 1.41 (+1.50)",
        "ahead": "92.00 ± 1.41",
        "far": "96.00 ± 0.00",
        "GMP": "83.00 ± 1.41",
        "IRP": "98.00 ± 1.41",
    }
    assert part.measure_table(rows(), "test").loc["short"].tolist() == ["81.00 ± 1.41", "–"]


@pytest.mark.parametrize("cost", [False, True])
def test_comparison_writes_its_numbers(cost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = comparison(0.9, cost=cost, checked=("ahead",), checks=("shuffled",))
    layers = {"layer_densities": [{"fc1.weight": 0.1}] * 10, "folder": "run", "seed": 7, "test_best_validation": None}
    unchecked = rows(**layers)
    checked = unchecked[unchecked["method"] == "ahead"].assign(check="shuffled", test=0.5)
    monkeypatch.setattr(Comparison, "rows", lambda self: pd.concat([unchecked, checked], ignore_index=True))
    dense = rows()[:2].assign(test=[0.97, 0.99], test_best=1.0)
    monkeypatch.setattr(results, "load", lambda *folders: dense)
    monkeypatch.setattr(results, "histories", lambda pruned: {"run": [{"epoch": 1, "loss": 1.0, "test": 0.9}]})
    document = Document(tmp_path)
    part.write(document)
    page = document.write().read_text()
    text = (tmp_path / "report.md").read_text()
    assert "seeds 7, 8; dense: 98.00 ± 1.41." in text
    assert "| method | as it is | shuffled |" in text
    assert "| ahead | 91.00 ± 1.41 | 50.00 ± 0.00 |" in text
    if cost:
        assert "<b>91.00 ± 1.41</b>" in page
        assert "| ahead | 2.0 | **91.00 ± 1.41** |" in text
    else:
        assert "the paper's → here (the difference); dense: 100.00 ± 0.00." in text
        assert "| short | 80.50 → 82.00 ± 1.41 (+1.50) |" in text
        assert "| IRP | 97.00 ± 1.41 |" in text


def test_agreement_has_the_papers_concordance_and_the_mean_of_the_pairs(tmp_path: Path) -> None:
    survivals = {"a": [0, 1, 2, 2], "b": [0, 1, 2, 2], "c": [2, 1, 0, 2], "d": [2, 2, 0, 1]}
    for name, survival in survivals.items():
        store(tmp_path / name / "triples.zarr", survival, 2)
    a, b, c, d = (cast(IRPRun, SimpleNamespace(folder=tmp_path / name)) for name in survivals)
    document = Document(tmp_path / "report")
    Agreement("T", {"SNIP & Mag": ([(a, b), (a, c)], [(a, d)])}, {"SNIP & Mag": (0.5, -0.125)}).write(document)
    document.write()
    values = np.array([*survivals.values()])[1:] / 2
    first, variance = values[0], values[0].var()  # All have the same mean and variance.
    of_c, of_d = (float(np.cov(first, other, bias=True)[0, 1] / variance) for other in values[1:])
    same = f"0.5000 → {(1 + of_c) / 2:.4f} ± {np.std([1, of_c], ddof=1):.4f}"
    row = f"| SNIP & Mag | {same} | -0.1250 → {of_d:.4f} |"
    assert row in (tmp_path / "report" / "report.md").read_text()


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
