import numpy as np
import pytest
import torch
from torch import Tensor

from autosparse.errors import UserError
from autosparse.pruning import Layer, Layout, Mask, keep_top, selection


def full(size: int) -> Mask:
    return Mask.full(
        Layout((Layer("a.weight", (size // 2,), 0, 1, 1), Layer("b.weight", (size - size // 2,), size // 2, 1, 1)))
    )


def reference(scores: Tensor, k: int, alive: Tensor) -> Tensor:
    """Sort by score, then by index."""
    values = np.where(alive.numpy(), scores.double().numpy(), -np.inf)
    order = np.lexsort((np.arange(len(values)), -values, ~alive.numpy()))
    kept = torch.zeros(len(values), dtype=torch.bool)
    kept[torch.from_numpy(order[:k].copy())] = True
    return kept


@pytest.mark.parametrize("chunk", [7, 1 << 22])
@pytest.mark.parametrize("kind", ["normal", "ties", "signed zeros", "infinite", "tiny", "equal"])
def test_against_a_stable_sort(kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_CHUNK", chunk)
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(500, generator=generator)
    if kind == "ties":
        scores = scores.round()
    elif kind == "signed zeros":
        scores = torch.where(scores < 0, -0.0, 0.0)
    elif kind == "infinite":
        scores[::5], scores[::7] = torch.inf, -torch.inf
    elif kind == "tiny":
        scores = scores * 1e-42  # denormal
    elif kind == "equal":
        scores = torch.ones(500)
    alive = Mask(full(500).layout, torch.rand(500, generator=generator) < 0.6)
    for k in (0, 1, 2, 50, alive.count - 1, alive.count):
        mask = keep_top(scores, k, alive)
        assert mask.count == k
        assert torch.equal(mask.kept, reference(scores, k, alive.kept))


def test_masks_of_one_score_are_nested() -> None:
    scores, mask = torch.randn(1000).round(decimals=1), full(1000)
    for k in (800, 500, 20):
        smaller = keep_top(scores, k, mask)
        assert not (smaller.kept & ~mask.kept).any()
        assert torch.equal(smaller.kept, keep_top(scores, k, full(1000)).kept)
        mask = smaller


def test_nan_is_refused_where_alive_and_names_the_layer() -> None:
    scores, alive = torch.ones(10), full(10)
    scores[7] = torch.nan
    with pytest.raises(UserError, match=r"1 scores are NaN, the first in layer b\.weight"):
        keep_top(scores, 3, alive)
    alive.kept[7] = False
    assert keep_top(scores, 3, alive).kept.nonzero().squeeze(1).tolist() == [0, 1, 2]


def test_what_cannot_be_kept_is_refused() -> None:
    with pytest.raises(UserError, match="cannot keep 11 of 10"):
        keep_top(torch.ones(10), 11, full(10))
    with pytest.raises(ValueError, match="must be float32"):
        keep_top(torch.ones(10, dtype=torch.float64), 1, full(10))
