"""Tables of the paper's experiments."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd

from autosparse.jobs import IRPRun
from autosparse.page import Document
from autosparse.study import results
from autosparse.study.parts import Agreement, Comparison, Method
from autosparse.study.scale import SCALES
from tests.conftest import Patch
from tests.study.test_compare import store

METHODS = (Method("short", "short-irp", paper=(85.0, 80.5)), Method("ahead", "lookahead"), Method("IRP", None))
VALUES = {"short": (0.80, 0.82), "ahead": (0.90, 0.92), "IRP": (0.96, 0.98)}


def comparison(*sparsities: float, **how: Any) -> Comparison:
    scale = replace(SCALES["smoke"], seeds=(7, 8))
    return Comparison("T", "t", scale, "lenet/mnist", METHODS, sparsities, **how)


def rows(**more: Any) -> pd.DataFrame:
    """Results of two seeds of each method at 90%."""
    common = {"sparsity": 0.9, "sanity": "none", "metric": "accuracy", "better": "higher", "recipe": "{}"} | more
    values = [
        {"criterion": m.label, "test": test, "test_best": test + 0.01, "iterative": m.label == "IRP"}
        for m in METHODS
        for test in VALUES[m.label]
    ]
    return pd.DataFrame(values).assign(**common)


def test_table_has_the_papers_number_and_the_difference() -> None:
    part = comparison(0.9)  # the last of the paper's two sparsities
    assert part.measure_table(rows(), "test_best")["90%"].to_dict() == {
        "short": "80.50 → 82.00 ± 1.41 (+1.50)",
        "ahead": "92.00 ± 1.41",
        "IRP": "98.00 ± 1.41",
    }
    assert comparison(0.9, 0.95).measure_table(rows(), "test").loc["short"].tolist() == ["81.00 ± 1.41", "–"]


def test_comparison_writes_its_numbers(tmp_path: Path, monkeypatch: Patch) -> None:
    part = comparison(0.9, checked=("ahead",), checks=("shuffled",))
    layers = {"layer_densities": [{"fc1.weight": 0.1}] * 6, "folder": "run", "seed": 7, "test_best_validation": None}
    unchecked = rows(**layers)
    checked = unchecked[unchecked["criterion"] == "ahead"].assign(sanity="shuffled", test=0.5)
    monkeypatch.setattr(Comparison, "rows", lambda self: pd.concat([unchecked, checked], ignore_index=True))
    dense = rows()[:2].assign(test=[0.97, 0.99], test_best=1.0)
    monkeypatch.setattr(results, "load", lambda *folders: dense)
    epoch = {"epoch": 1, "loss": 1.0, "metric": "accuracy", "test": 0.9}
    monkeypatch.setattr(results, "histories", lambda pruned: {"run": [epoch]})
    document = Document(tmp_path)
    part.write(document)
    document.write()
    text = (tmp_path / "report.md").read_text()
    assert "seeds 7, 8; dense: 98.00 ± 1.41." in text
    assert "| criterion | as it is | shuffled |" in text
    assert "| ahead at 90% | 91.00 ± 1.41 | 50.00 ± 0.00 |" in text
    assert "the paper's → here (the difference); dense: 100.00 ± 0.00." in text
    assert "| short | 80.50 → 82.00 ± 1.41 (+1.50) |" in text
    assert "| IRP | 97.00 ± 1.41 |" in text


def test_method_has_one_color_in_all_charts_of_a_page(tmp_path: Path) -> None:
    document = Document(tmp_path)
    assert document.number(["SNIP", "AutoS"]) == {"SNIP": 0, "AutoS": 1}
    assert document.number(["NPB", "AutoS"]) == {"NPB": 2, "AutoS": 1}


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
