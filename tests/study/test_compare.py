"""Results side by side: tables of accuracies, and concordance of survival."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from autosparse.errors import UserError
from autosparse.page import markdown
from autosparse.pruning import Layout, Mask
from autosparse.store import TripleStore
from autosparse.study import compare
from tests.store.helpers import Run, write

RECIPE = json.dumps({"epochs": 3, "learning_rate": 0.1})


def rows() -> pd.DataFrame:
    found = []
    for criterion, base in (("snip", 0.90), ("random", 0.80)):
        for sparsity in (0.9, 0.99):
            for seed in (0, 1):
                accuracy = base - 0.1 * (sparsity > 0.9) + 0.02 * seed
                found.append(
                    {
                        "criterion": criterion,
                        "sparsity": sparsity,
                        "seed": seed,
                        "cost": 1.0,
                        "test": accuracy,
                        "metric": "accuracy",
                        "better": "higher",
                        "recipe": RECIPE,
                    }
                )
    return pd.DataFrame(found).assign(folder="runs/a")


def irp() -> pd.DataFrame:
    densities, accuracies = (1.0, 0.102, 0.5, 0.01), (0.95, 0.94, 0.93, 0.92)
    return pd.DataFrame(
        {
            "criterion": "irp-snip",
            "iteration": range(4),
            "density": densities,
            "test": accuracies,
            "metric": "accuracy",
            "better": "higher",
            "recipe": RECIPE,
            "folder": "runs/irp",
        }
    )


def test_accuracy_table_has_means_by_criterion_and_sparsity() -> None:
    table = compare.accuracy_table(rows(), irp())
    assert list(table.index) == ["irp-snip (iterative)", "snip", "random"]
    assert list(table.columns) == ["cost", "90%", "99%"]
    assert list(table["cost"]) == ["up to 4", "1", "1"]
    assert table.loc["snip", "90%"] == "91.00 ± 1.41"
    assert table.loc["random", "99%"] == "71.00 ± 1.41"
    assert list(table.loc["irp-snip (iterative)"]) == ["up to 4", "94.00", "92.00"]
    assert compare.dense(rows(), irp())["test"].tolist() == [0.95]
    assert compare.dense(rows(), pd.DataFrame()).empty


def test_mask_of_irp_far_from_a_sparsity_does_not_count() -> None:
    assert compare.nearest(irp(), 0.95).empty
    assert compare.nearest(irp(), 0.9)["iteration"].tolist() == [1]


def test_interpolated_cell_is_marked() -> None:
    table = compare.accuracy_table(rows().replace({"sparsity": {0.9: 0.5, 0.99: 0.97}}), irp())
    assert table.loc["irp-snip (iterative)", "50%"] == "93.00"
    assert table.loc["irp-snip (iterative)", "97%"].startswith("≈ 92.")


def test_interpolation_is_linear_in_log_density() -> None:
    masks = irp()
    assert compare.interpolated(masks, 0.5, "test").tolist() == pytest.approx([0.93])
    between = 1 - (0.5 * 0.102) ** 0.5  # half way, in the logarithm
    assert compare.interpolated(masks, between, "test").tolist() == pytest.approx([0.935])
    assert compare.interpolated(masks, 0.999, "test").isna().all()


def test_markdown_of_a_table() -> None:
    text = markdown(compare.accuracy_table(rows(), irp()))
    assert text.splitlines()[:2] == ["| criterion | cost | 90% | 99% |", "| --- | ---: | ---: | ---: |"]
    assert "| snip | 1 | 91.00 ± 1.41 | 81.00 ± 1.41 |" in text


def test_different_recipes_raise() -> None:
    other = irp().assign(recipe=json.dumps({"epochs": 3, "learning_rate": 0.2}))
    with pytest.raises(UserError, match=r"learning_rate is 0\.1 in runs/a and 0\.2 in runs/irp"):
        compare.accuracy_table(rows(), other)
    newer = irp().assign(recipe=json.dumps({**json.loads(RECIPE), "compile": True}))
    with pytest.raises(UserError, match=r"compile is None in runs/a and True in runs/irp"):
        compare.accuracy_table(rows(), newer)


def test_recipes_have_their_differences() -> None:
    other = json.dumps({"epochs": 3, "learning_rate": 0.2})
    assert compare.recipes(rows(), irp().assign(recipe=other)) == [(RECIPE, ""), (other, ", learning_rate=0.2")]


def store(path: Path, survival: list[int], iterations: int, model: nn.Module | None = None) -> TripleStore:
    """A complete run whose parameters have these survivals."""
    layout = Layout.of(model or nn.Linear(len(survival), 1))
    masks = [Mask(layout, torch.tensor([s >= i for s in survival])) for i in range(iterations + 1)]
    write(path, Run(torch.ones(layout.size), torch.ones(layout.size), masks))
    return TripleStore.open(path)


def test_concordance_equals_the_papers_formula(tmp_path: Path) -> None:
    a, b = [0, 1, 2, 3, 4, 4, 2, 0], [1, 1, 2, 0, 4, 3, 2, 2]
    x, y = np.array(a) / 4, np.array(b) / 4
    expected = 2 * np.cov(x, y, bias=True)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    first, second = store(tmp_path / "a", a, 4), store(tmp_path / "b", b, 4)
    assert compare.concordance(first, second) == pytest.approx(expected, rel=1e-12)
    assert compare.concordance(first, first) == 1.0


def test_concordance_of_runs_of_different_lengths_uses_fractions(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a", [0, 1, 2], 2), store(tmp_path / "b", [0, 2, 4], 4)
    assert compare.concordance(a, b) == pytest.approx(1.0)


def test_concordance_of_incomparable_runs_raises(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a", [1, 1], 2), store(tmp_path / "b", [0, 1, 2], 2)
    with pytest.raises(UserError, match="runs of different networks"):
        compare.concordance(a, b)
    with pytest.raises(UserError, match="every parameter has the same survival"):
        compare.concordance(a, a)
