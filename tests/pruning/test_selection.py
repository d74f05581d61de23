from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autosparse.errors import UserError
from autosparse.pruning import Layer, Layout, Mask, keep_top, keep_top_each, selection
from autosparse.pruning.selection import priority


def full(size: int) -> Mask:
    return Mask.full(
        Layout((Layer("a.weight", (size // 2,), 0, 1, 1), Layer("b.weight", (size - size // 2,), size // 2, 1, 1)))
    )


def reference(scores: Tensor, k: int, alive: Tensor) -> Tensor | None:
    """Sort by score, then by priority; None where ties at one value would decide more than half."""
    values = np.where(alive.numpy(), scores.double().numpy(), -np.inf)
    order = np.lexsort((-priority(torch.arange(len(values))).numpy(), -values, ~alive.numpy()))
    kept = torch.zeros(len(values), dtype=torch.bool)
    kept[torch.from_numpy(order[:k].copy())] = True
    if 0 < k < alive.sum():
        equal = (values == values[order[k - 1]]) & alive.numpy()
        taken = (equal & kept.numpy()).sum()
        distinct = equal.sum() <= 0.01 * alive.sum() and values[order[k - 1]] not in (0, -np.inf)
        if taken < equal.sum() and 2 * taken > k and not distinct:
            return None
    return kept


def chosen(scores: Tensor, k: int, alive: Mask) -> Tensor | None:
    """What `keep_top` keeps; None where it refuses ties."""
    try:
        return keep_top(scores, k, alive).kept
    except UserError as error:
        if "do not tell the weights apart" not in str(error):
            raise
        return None


def same(first: Tensor | None, second: Tensor | None) -> bool:
    return first is second is None or (first is not None and second is not None and torch.equal(first, second))


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda scores: scores,
    "ties": lambda scores: scores.round(),
    "signed zeros": lambda scores: torch.where(scores < 0, -0.0, 0.0),
    "infinite": lambda scores: (1 / scores.round(decimals=1)).clamp(-9, 9) / (scores.abs() > 0.5),
    "tiny": lambda scores: scores * 1e-42,  # denormal
    "equal": torch.ones_like,
    "lowest": lambda scores: torch.full_like(scores, -torch.inf),  # what a dead score is taken for
}


def draw(kind: str, size: int, seed: int = 1) -> tuple[Tensor, Mask]:
    """Scores of a kind, and a mask with 6 of 10 alive."""
    generator = torch.Generator().manual_seed(seed)
    scores = KINDS[kind](torch.randn(size, generator=generator)).nan_to_num(0.0, torch.inf, -torch.inf)
    return scores, Mask(full(size).layout, torch.rand(size, generator=generator) < 0.6)


@pytest.mark.parametrize("chunk", [70, 1 << 18])
@pytest.mark.parametrize("kind", KINDS)
def test_against_a_sort(kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_CHUNKS", (chunk, chunk))
    scores, some = draw(kind, 500)
    for alive in (some, full(500)):
        for k in (0, 1, 2, 50, alive.count - 1, alive.count):
            kept = chosen(scores, k, alive)
            assert same(kept, reference(scores, k, alive.kept)), (k, kind)
            assert kept is None or kept.sum() == k


floats = st.floats(width=32, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), scores=st.lists(floats | st.sampled_from([0.0, -0.0, 1.0]), min_size=2, max_size=40))
def test_any_floats_against_a_sort(data: st.DataObject, scores: list[float]) -> None:
    values, size = torch.tensor(scores), len(scores)
    alive = Mask(full(size).layout, torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size))))
    k = data.draw(st.integers(0, alive.count))
    expected = reference(values, k, alive.kept)
    assert same(chosen(values, k, alive), expected)


def test_priorities_are_a_permutation_without_a_pattern() -> None:
    of = priority(torch.arange(1 << 16))
    assert len(of.unique()) == len(of)
    first = of >= of.sort().values[1 << 15]  # the half that is kept
    assert all(abs(float(part.float().mean()) - 0.5) < 0.05 for part in first.split(1 << 12))
    assert all(abs(float(first[k::3].float().mean()) - 0.5) < 0.02 for k in range(3))
    far = priority(torch.tensor([2**40, 2**40 + 1, 2**48 - 1]))
    assert len(far.unique()) == 3
    assert ((far >= 0) & (far < 1 << 48)).all()


def test_a_layer_of_equal_scores_is_not_kept_from_its_front() -> None:
    scores, alive = torch.zeros(1000), full(1000)
    kept = keep_top_each(scores, [100, 250], alive).kept
    assert kept[:500].sum() == 100
    assert kept[500:].sum() == 250
    assert all(part.any() for part in kept.split(100))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_ties_of_low_precision_are_drawn(dtype: torch.dtype) -> None:
    scores = torch.rand(100_000, generator=torch.Generator().manual_seed(0)).to(dtype).float()
    for k in (50_000, 100, 10):
        kept = keep_top(scores, k, full(100_000)).kept
        assert kept.sum() == k
        assert scores[kept].min() == scores.sort(descending=True).values[k - 1]


def test_scores_that_do_not_distinguish_are_refused_naming_the_layers() -> None:
    alive, scores = full(1000), torch.zeros(1000)
    with pytest.raises(UserError, match=r"300 of the 300 .* score 0; .* 2 layers \(a\.weight, b\..* diverged"):
        keep_top(scores, 300, alive)
    assert keep_top(scores, 1000, alive).count == 1000
    scores[500:] = torch.arange(500)
    assert keep_top(scores, 998, alive).count == 998  # 499 are drawn
    with pytest.raises(
        UserError, match=r"500 of the 999 .* 501 that score 0; .* 1 layer \(a\.weight\); likely"
    ) as refused:
        keep_top(scores, 999, alive)
    assert "\n" not in str(refused.value)


def test_nan_score_of_a_kept_weight_raises_naming_the_layer() -> None:
    bits = torch.tensor([0x7FC00000, 0x7F800001, -1, -0x007FFFFF], dtype=torch.int32)  # the least NaNs of both signs
    for nan in bits.view(torch.float32):
        scores, alive = torch.ones(10), full(10)
        scores[7] = nan
        with pytest.raises(UserError, match=r"1 scores are NaN, the first in layer b\.weight"):
            keep_top(scores, 3, alive)
        alive.kept[7] = False
        assert keep_top(scores, 9, alive).kept.nonzero().squeeze(1).tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_count_or_scores_out_of_range_raise() -> None:
    with pytest.raises(UserError, match="cannot keep 11 of 10"):
        keep_top(torch.ones(10), 11, full(10))
    with pytest.raises(ValueError, match="must be float32"):
        keep_top(torch.ones(10, dtype=torch.float64), 1, full(10))
