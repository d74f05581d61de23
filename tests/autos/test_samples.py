"""What a fit draws, from memory: as often as it weighs, and some triples in place of all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from autosparse.autos import StoredSamples, fit, validate
from autosparse.autos.sampler import WeightedSampler
from autosparse.config import FitConfig
from autosparse.errors import UserError
from autosparse.store import TripleStore, order, sample

pytestmark = pytest.mark.usefixtures("small_mlp")
CONFIG = FitConfig(samples=4096, batch_size=512, epochs=3)


@pytest.fixture(scope="module")
def store(irp_run: Path) -> TripleStore:
    return TripleStore.open(irp_run)


def draws(weights: Tensor, batch: int, seed: int, *part: int) -> Tensor:
    sampler = WeightedSampler(weights, 20, seed, *part)
    sampler.load_state_dict(sampler.state_dict() | {"batch": batch})
    return next(iter(sampler))


def test_samples_are_drawn_as_often_as_they_weigh() -> None:
    weights = torch.rand(100, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 3
    for batch in range(4):
        found = torch.bincount(draws(weights, batch, 0), minlength=100)
        assert ((found - 20 * weights / weights.sum()).abs() < 2).all()
    assert not torch.equal(draws(weights, 0, 0), draws(weights, 1, 0))
    assert not torch.equal(draws(weights, 0, 0), draws(weights, 0, 1))
    assert torch.equal(draws(weights, 2, 0), draws(weights, 2, 0))
    parts = [draws(weights, 2, 0, rank, 4) for rank in range(4)]
    assert torch.equal(torch.stack(parts, 1).flatten(), draws(weights, 2, 0))


def test_an_epoch_is_as_many_draws_as_there_are_samples() -> None:
    sampler = WeightedSampler(torch.ones(70, dtype=torch.float64), 20)
    assert [len(batch) for batch in sampler] == [20] * len(sampler) == [20] * 3
    assert sampler.state_dict()["epoch"] == 1
    assert len(WeightedSampler(torch.ones(9, dtype=torch.float64), 20)) == 1  # less than a batch
    with pytest.raises(UserError, match="the saved position is of another number of samples: 70 there, 71 here"):
        WeightedSampler(torch.ones(71, dtype=torch.float64), 20).load_state_dict(sampler.state_dict())
    with pytest.raises(UserError, match="a batch of 20 cannot be cut over 3 processes"):
        WeightedSampler(torch.ones(70, dtype=torch.float64), 20, 0, 0, 3)


def test_some_triples_come_from_everywhere_but_what_is_held_out(store: TripleStore, accelerator: Accelerator) -> None:
    batches = StoredSamples([store], replace(CONFIG, transform="raw")).batches(accelerator)
    assert len(batches) == pytest.approx(4096 // 512, abs=1)
    drawn = {theta for inputs, _ in batches for theta in inputs[:, 0].tolist()}
    theta = torch.from_numpy(store.theta())
    held_out = theta[torch.from_numpy(order.part_indices(0, len(store), 0, "held-out"))]
    assert drawn < set(theta.tolist())
    assert not drawn & set(held_out.tolist())
    for layer in store.layout.layers:
        there = set(theta[layer.offset : layer.offset + layer.size].tolist())
        assert len(drawn & there) == pytest.approx(len(drawn) * layer.size / len(store), rel=0.3)


def test_a_run_counts_by_its_weight_among_some_triples(store: TripleStore) -> None:
    (one, two), weights = StoredSamples([store, store], replace(CONFIG, weights=(1.0, 2.5)))._drawn
    assert len(one.labels) == len(two.labels)
    assert weights[len(one.labels) :].sum() == pytest.approx(2.5 * weights[: len(one.labels)].sum().item())


def test_a_fit_to_some_triples_is_nearly_as_good(store: TripleStore, accelerator: Accelerator) -> None:
    samples = StoredSamples([store], replace(CONFIG, samples=16384, epochs=2))
    found = validate(fit(samples, accelerator), samples)
    assert found["mse"] < 0.9 * found["variance"]
    assert found["spearman"] > 0.25


def test_too_few_samples_are_refused() -> None:
    for wrong in (-1, 15):
        with pytest.raises(UserError, match=f"samples must be 0 or at least 1,024, got {wrong}"):
            FitConfig(samples=wrong)
    with pytest.raises(UserError, match="samples are for fits to stored triples"):
        FitConfig(samples=4096, rounds=2)


def test_what_measures_a_fit_and_makes_its_surface_comes_from_one_reading(
    store: TripleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, scan, scans = StoredSamples([store], replace(CONFIG, samples=0)), TripleStore.scan, list[tuple[str, ...]]()

    def counted(self: TripleStore, *arrays: str) -> Any:
        scans.append(arrays)
        return scan(self, *arrays)

    monkeypatch.setattr(TripleStore, "scan", counted)
    seen = samples.validation(0)
    (few,) = samples.tabulation()
    assert len(scans) == 1
    for drawn, limit in ((seen, 1 << 20), (few, 1 << 17)):
        alone = sample(store, limit, CONFIG.seed, "held-out")
        assert torch.equal(torch.stack(drawn.columns), torch.stack((alone.theta, alone.grad)))
    (before,) = StoredSamples([store], replace(CONFIG, samples=0)).tabulation()  # whichever is asked for first
    assert torch.equal(torch.stack(before.columns), torch.stack(few.columns))
