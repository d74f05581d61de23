from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from autosparse.store import TripleStore, TripleWriter
from autosparse.study.consistency import concordance


def store(path: Path, survival: list[int], iterations: int, model: nn.Module | None = None) -> TripleStore:
    """A complete run whose parameters have these survivals."""
    layout = Layout.of(model or nn.Linear(len(survival), 1))
    writer = TripleWriter.open(path, layout, iterations, {"seed": 0})
    writer.commit_features(torch.ones(layout.size), torch.ones(layout.size))
    for i in range(1, iterations + 1):
        writer.commit_alive(i, Mask(layout, torch.tensor([s >= i for s in survival])))
    writer.finish()
    return TripleStore.open(path)


def test_the_formula_of_the_paper(tmp_path: Path) -> None:
    a, b = [0, 1, 2, 3, 4, 4, 2, 0], [1, 1, 2, 0, 4, 3, 2, 2]
    x, y = np.array(a) / 4, np.array(b) / 4
    expected = 2 * np.cov(x, y, bias=True)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    first, second = store(tmp_path / "a", a, 4), store(tmp_path / "b", b, 4)
    assert concordance(first, second) == pytest.approx(expected, rel=1e-12)
    assert concordance(first, first) == 1.0


def test_runs_of_other_lengths_are_compared_by_share(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a", [0, 1, 2], 2), store(tmp_path / "b", [0, 2, 4], 4)
    assert concordance(a, b) == pytest.approx(1.0)


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a", [1, 1], 2), store(tmp_path / "b", [0, 1, 2], 2)
    with pytest.raises(UserError, match="runs of different networks"):
        concordance(a, b)
    with pytest.raises(UserError, match="every parameter has the same survival"):
        concordance(a, a)
