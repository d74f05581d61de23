"""Results side by side: tables of accuracies, and concordance of survival."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from autosparse.store import TripleStore
from autosparse.study import compare
from tests.store.helpers import Run, write

RECIPE = json.dumps({"epochs": 3, "learning_rate": 0.1})
COMMON = {"metric": "accuracy", "better": "higher", "recipe": RECIPE}


def rows() -> pd.DataFrame:
    tests = [0.90, 0.92, 0.80, 0.82, 0.80, 0.82, 0.70, 0.72]
    columns = {"criterion": ["snip"] * 4 + ["random"] * 4, "sparsity": [0.9, 0.9, 0.99, 0.99] * 2, "seed": [0, 1] * 4}
    return pd.DataFrame({**columns, "test": tests, "cost": 1.0, "folder": "runs/a", **COMMON})


def irp() -> pd.DataFrame:
    masks = {"iteration": range(4), "density": (1.0, 0.102, 0.5, 0.01), "test": (0.95, 0.94, 0.93, 0.92)}
    return pd.DataFrame({"criterion": "irp-snip", **masks, "seed": 0, "order_seed": 0, "folder": "runs/irp", **COMMON})


def test_accuracy_table_has_means_and_deviations_in_per_cent() -> None:
    table = compare.accuracy_table(rows(), irp())
    expected = {
        "random": ["1", "81.00 ± 1.41", "71.00 ± 1.41"],
        "snip": ["1", "91.00 ± 1.41", "81.00 ± 1.41"],
        "irp-snip (iterative)": ["up to 4", "94.00", "92.00"],
    }
    assert table.T.to_dict("list") == expected
    assert list(table.columns) == ["cost", "90%", "99%"]
    assert compare.dense(rows(), irp())["test"].tolist() == [0.95]
    assert compare.dense(rows(), pd.DataFrame()).empty
    assert compare.dense(rows(), pd.concat([irp(), irp()]))["test"].tolist() == [0.95]
    own = rows().assign(sparsity=0.0, cost=[1.0, 1.0, 2.0, 2.0] * 2)
    assert compare.dense(own, irp())["test"].tolist() == [0.90, 0.92, 0.80, 0.82]


def test_cells_without_rows_have_a_dash() -> None:
    table = compare.table(rows()[2:], "criterion", "sparsity")
    assert table.to_dict("list") == {0.99: ["81.00 ± 1.41", "71.00 ± 1.41"], 0.9: ["–", "81.00 ± 1.41"]}
    loss = rows().assign(metric="loss", better="lower", test=[1.0, 2.0, 3.0, math.nan] * 2)
    assert list(compare.table(loss, "criterion", "sparsity").loc["snip"]) == ["1.5000 ± 0.7071", "3.0000"]


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


def test_different_recipes_or_metrics_raise() -> None:
    with pytest.raises(UserError, match="results of different metrics, accuracy and loss"):
        compare.metric_of(rows(), irp().assign(metric="loss"))
    other = irp().assign(recipe=json.dumps({"epochs": 3, "learning_rate": 0.2}))
    with pytest.raises(UserError, match=r"a table: learning_rate=0\.1 and learning_rate=0\.2; report them apart"):
        compare.accuracy_table(rows(), other)


def test_recipes_have_their_differences() -> None:
    other = json.dumps({"epochs": 3, "learning_rate": 0.2})
    named = [(RECIPE, ", learning_rate=0.1"), (other, ", learning_rate=0.2")]
    assert compare.recipes(rows(), irp().assign(recipe=other)) == named
    assert compare.recipes(rows(), irp()) == [(RECIPE, "")]


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
    assert compare.concordance(first, first) == pytest.approx(1.0)


def test_concordance_of_different_lengths_uses_fractions_and_of_different_networks_raises(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a", [0, 1, 2], 2), store(tmp_path / "b", [0, 2, 4], 4)
    assert compare.concordance(a, b) == pytest.approx(1.0)
    with pytest.raises(UserError, match="runs of different networks"):
        compare.concordance(a, store(tmp_path / "c", [1, 1], 2))


def test_cost_of_iterative_pruning_ends_at_the_first_mask_as_sparse() -> None:
    masks = {"iteration": range(4), "density": (1.0, 0.3, 0.1, 0.03), "test": (0.9, 0.8, 0.7, 0.6), "folder": "a"}
    both = pd.concat([pd.DataFrame(masks), pd.DataFrame(masks)[:3].assign(folder="b")])
    reached = compare.reached(both, 0.9)
    assert reached[["cost", "test", "density"]].to_numpy() == pytest.approx(np.array([[3.0, 0.7, 0.1]] * 2))
    assert compare.reached(both, 0.95)[["folder", "cost"]].to_numpy().tolist() == [["a", 4.0]]
    assert compare.reached(both, 0.99).empty
