import torch
from torch import nn

from autosparse.criteria import Scoring, select
from autosparse.criteria.data_free import magnitude
from autosparse.criteria.rounds import Rounds
from autosparse.jobs.sanity import Inverted, reinitialized, shuffled
from autosparse.pruning import Layout, Mask, keep_top


def test_shuffled_mask_keeps_layer_densities_and_overlaps_by_chance(model: nn.Module) -> None:
    full = Mask.full(Layout.of(model))
    mask = keep_top(magnitude(model, full, Scoring()), full.layout.size // 10, full)
    found = shuffled(mask, seed=3)
    assert found.layer_densities() == mask.layer_densities()
    assert torch.equal(found.kept, shuffled(mask, seed=3).kept)
    assert not torch.equal(found.kept, shuffled(mask, seed=4).kept)
    both = (found.kept & mask.kept).sum() / mask.count
    by_chance = sum(
        density**2 * layer.size
        for layer, density in zip(full.layout.layers, mask.layer_densities().values(), strict=True)
    )
    assert abs(both - by_chance / mask.count) < 0.02


def test_inverted_criterion_keeps_the_lowest_scores(model: nn.Module) -> None:
    full = Mask.full(Layout.of(model))
    k = full.layout.size // 10
    lowest = select(Inverted(magnitude), model, full, Scoring(), k)
    scores = magnitude(model, full, Scoring())
    assert lowest.count == k
    assert scores[lowest.kept].max() <= scores[~lowest.kept].min()


def test_inverted_scores_that_tie_at_zero_are_drawn(model: nn.Module) -> None:
    full = Mask.full(Layout.of(model))
    k = full.layout.size // 10
    scores = torch.arange(full.layout.size, dtype=torch.float32).sub(2 * k).clamp(min=0)
    lowest = select(Inverted(lambda model, mask, scoring: scores), model, full, Scoring(), k)
    assert lowest.count == k
    assert not scores[lowest.kept].any()


def test_inverted_rounds_keep_what_one_inverted_shot_keeps(model: nn.Module) -> None:
    full = Mask.full(Layout.of(model))
    k = full.layout.size // 10
    # magnitudes do not change from round to round, so rounds choose as one shot does
    found = select(Inverted(Rounds(magnitude, 5)), model, full, Scoring(), k)
    assert torch.equal(found.kept, select(Inverted(magnitude), model, full, Scoring(), k).kept)


def test_reinitialized_seed_is_valid_and_depends_on_the_seed() -> None:
    assert reinitialized(5) == reinitialized(5) != reinitialized(6)
    assert 0 <= reinitialized(5) < 1 << 32
