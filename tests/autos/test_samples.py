"""Samples that a fit draws from memory: by their weights, and some triples instead of all."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from autosparse.autos import StoredSamples
from autosparse.autos.samples import WeightedSampler
from autosparse.config import FitConfig
from autosparse.errors import UserError
from autosparse.store import TripleStore, order, sample

pytestmark = pytest.mark.usefixtures("small_mlp")
CONFIG = FitConfig(samples=4096, batch_size=512, epochs=3)


def draws(weights: Tensor, batch: int, seed: int, *part: int) -> Tensor:
    sampler = WeightedSampler(weights, 20, seed, *part)
    sampler.load_state_dict(sampler.state_dict() | {"batch": batch})
    return next(iter(sampler))


def test_samples_are_drawn_as_often_as_they_weigh() -> None:
    weights = torch.rand(100, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 3
    for batch in range(4):
        counts = torch.bincount(draws(weights, batch, 0), minlength=100)
        assert ((counts - 20 * weights / weights.sum()).abs() < 2).all()
    assert not torch.equal(draws(weights, 0, 0), draws(weights, 1, 0))
    assert not torch.equal(draws(weights, 0, 0), draws(weights, 0, 1))
    assert torch.equal(draws(weights, 2, 0), [*WeightedSampler(weights, 20, 0)][2])
    parts = [draws(weights, 2, 0, rank, 4) for rank in range(4)]
    assert torch.equal(torch.stack(parts, 1).flatten(), draws(weights, 2, 0))


def test_epoch_has_as_many_draws_as_there_are_samples() -> None:
    sampler = WeightedSampler(torch.ones(70, dtype=torch.float64), 20)
    assert [len(batch) for batch in sampler] == [20] * len(sampler) == [20] * 3
    assert sampler.state_dict()["epoch"] == 1
    assert len(WeightedSampler(torch.ones(9, dtype=torch.float64), 20)) == 1  # less than a batch
    with pytest.raises(UserError, match="other number of samples"):
        WeightedSampler(torch.ones(71, dtype=torch.float64), 20).load_state_dict(sampler.state_dict())
    with pytest.raises(UserError, match="a batch of 20 cannot be divided among 3 processes"):
        WeightedSampler(torch.ones(70, dtype=torch.float64), 20, 0, 0, 3)


def test_some_triples_come_from_all_layers_but_not_from_the_held_out_part(
    store: TripleStore, accelerator: Accelerator
) -> None:
    batches = StoredSamples([store], replace(CONFIG, transform="raw")).batches(accelerator)
    assert len(batches) == pytest.approx(4096 // 512, abs=1)
    drawn = {theta for inputs, _ in batches for theta in inputs[:, 0].tolist()}
    theta = torch.from_numpy(store.theta())
    held_out = theta[torch.from_numpy(order.part_indices(0, len(store), 0, "held-out"))]
    assert drawn < set(theta.tolist())
    assert not drawn & set(held_out.tolist())
    for layer in store.layout.layers:
        of_layer = drawn & set(theta[layer.offset : layer.offset + layer.size].tolist())
        assert len(of_layer) == pytest.approx(len(drawn) * layer.size / len(store), rel=0.3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int64])
def test_integers_of_any_width_index_scales_and_labels(
    store: TripleStore, accelerator: Accelerator, dtype: torch.dtype
) -> None:
    samples = StoredSamples([store, store], replace(CONFIG, samples=0))
    loader = samples.batches(accelerator)
    triples = next(iter(loader.source))
    inputs, labels = loader.encode(replace(triples, survival=triples.survival.to(dtype), store=triples.store.to(dtype)))
    assert inputs.shape == (512, 2)
    torch.testing.assert_close(labels, triples.survival.float() / store.iterations)


def test_run_is_drawn_by_its_weight_among_some_triples(store: TripleStore) -> None:
    (one, two), weights = StoredSamples([store, store], replace(CONFIG, weights=(1.0, 2.5)))._in_memory
    assert len(one) == len(two)
    assert weights[len(one) :].sum() == pytest.approx(2.5 * weights[: len(one)].sum().item())


def test_validation_and_tabulation_come_from_one_reading(store: TripleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, scan, scans = StoredSamples([store], replace(CONFIG, samples=0)), TripleStore.scan, list[tuple[str, ...]]()

    def counted(self: TripleStore, *arrays: str) -> Any:
        scans.append(arrays)
        return scan(self, *arrays)

    monkeypatch.setattr(TripleStore, "scan", counted)
    validation = samples.validation(0)
    (tabulation,) = samples.tabulation()
    assert len(scans) == 1
    for drawn, limit in ((validation, 1 << 20), (tabulation, 1 << 17)):
        alone = sample(store, limit, CONFIG.seed, "held-out")
        assert torch.equal(torch.stack(drawn.columns), torch.stack((alone.theta, alone.grad)))
    (before,) = StoredSamples([store], replace(CONFIG, samples=0)).tabulation()  # whichever is called first
    assert torch.equal(torch.stack(before.columns), torch.stack(tabulation.columns))
