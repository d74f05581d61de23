from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from autosparse.autos import AutoS, AutoSCriterion, Features, StoredSamples, fit, scale_of_store, validate
from autosparse.autos.fit import overlap, spearman
from autosparse.config import FitConfig
from autosparse.criteria import Scoring
from autosparse.criteria.gradient import mean_gradient
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from autosparse.store import TripleStore
from autosparse.tasks import Data

pytestmark = pytest.mark.usefixtures("small_mlp")
CONFIG = FitConfig(epochs=1, batch_size=512)


@pytest.fixture(scope="module")
def fitted(store: TripleStore, accelerator: Accelerator, small_mlp: None) -> AutoS:
    return fit(StoredSamples([store], replace(CONFIG, epochs=2)), accelerator)


def test_fit_predicts_held_out_survival(fitted: AutoS, store: TripleStore) -> None:
    metrics = validate(fitted, StoredSamples([store], CONFIG))
    assert metrics["samples"] == pytest.approx(len(store) / 10, abs=1)
    assert metrics["mse"] < 0.9 * metrics["variance"]
    assert metrics["spearman"] > 0.3
    assert all(metrics["overlap"][s] > 2 * metrics["overlap_by_chance"][s] for s in ("0.9", "0.95", "0.98", "0.99"))
    assert fitted.card["runs"][0]["fingerprint"] == store.fingerprint
    assert fitted.card["losses"][1] < fitted.card["losses"][0]


def test_loaded_network_scores_like_the_saved_one(fitted: AutoS, store: TripleStore, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    loaded = AutoS.load(tmp_path)
    theta, grad = torch.from_numpy(store.theta()), torch.from_numpy(store.grad())
    assert torch.equal(loaded.score(theta, grad), fitted.score(theta, grad))
    assert (loaded.card, loaded.features) == (fitted.card, fitted.features)
    assert {path.name for path in tmp_path.iterdir()} == {"autos.json", "autos.safetensors"}
    (tmp_path / "autos.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="is damaged"):
        AutoS.load(tmp_path)
    with pytest.raises(UserError, match=r"no saved AutoS in .*autosparse fit"):
        AutoS.load(tmp_path / "none")


def test_criterion_scores_initial_weights_and_mean_gradients(fitted: AutoS, model: nn.Module, data: Data) -> None:
    layout = Layout.of(model)
    scoring = Scoring(data.scoring(100))
    scores = fitted.score(layout.flatten(layout.weights(model)), mean_gradient(model, layout, scoring))
    assert torch.equal(AutoSCriterion(fitted)(model, Mask.full(layout), scoring), scores)
    with pytest.raises(UserError, match="rounds must be at least 1, got 0"):
        AutoSCriterion(fitted, rounds=0)


def test_scores_do_not_depend_on_the_scale_of_the_loss(fitted: AutoS, store: TripleStore) -> None:
    theta, grad = torch.from_numpy(store.theta()), torch.from_numpy(store.grad())
    torch.testing.assert_close(fitted.score(theta, 100 * grad), fitted.score(theta, grad), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("feature", ["theta", "grad"])
def test_one_input_ignores_the_other(feature: str, store: TripleStore, accelerator: Accelerator) -> None:
    autos = fit(StoredSamples([store], replace(CONFIG, features=(feature,), max_steps=9)), accelerator)
    theta, grad = torch.from_numpy(store.theta()), torch.from_numpy(store.grad())
    changed = (theta, grad.flip(0)) if feature == "theta" else (theta.flip(0), grad)
    assert torch.equal(autos.score(*changed), autos.score(theta, grad))
    assert autos.score(theta, grad).std() > 0


def test_raw_sum_takes_the_gradient_times_the_number_of_batches(
    store: TripleStore, model: nn.Module, data: Data, accelerator: Accelerator
) -> None:
    layout, batches = Layout.of(model), data.scoring(100)
    assert len(batches) > 5
    theta, grad = Features("raw-sum").measure(model, Mask.full(layout), Scoring(batches))
    assert torch.equal(theta, layout.flatten(layout.weights(model)))
    assert torch.equal(grad, mean_gradient(model, layout, Scoring(batches)) * len(batches))

    gradient = store.run["gradient"]
    count = -(-gradient["samples"] // gradient["batch_size"])
    assert count > 5
    for samples in (0, 4096):
        plain, summed = (
            next(iter(StoredSamples([store], replace(CONFIG, transform=name, samples=samples)).batches(accelerator)))[0]
            for name in ("raw", "raw-sum")
        )
        assert torch.equal(summed, plain * torch.tensor([1.0, float(count)]))
    store.run.pop("gradient")
    with pytest.raises(UserError, match="does not say the batches of its gradient, which raw-sum needs"):
        StoredSamples([store], replace(CONFIG, transform="raw-sum")).batches(accelerator)
    store.run["gradient"] = gradient


def test_scaled_features_are_compressed_and_raw_ones_unchanged() -> None:
    theta, grad = torch.randn(5), torch.randn(5)
    assert torch.equal(Features("raw").encode(theta, grad, scale=(9.0, 9.0)), torch.stack([theta, grad], 1))
    scaled = Features().encode(theta, grad, scale=(2.0, 0.5))
    torch.testing.assert_close(scaled[:, 0], torch.asinh(3 * theta / 2))
    torch.testing.assert_close(scaled[:, 1], torch.asinh(30 * grad / 0.5))


def test_scale_of_a_store_is_that_of_its_network(store: TripleStore) -> None:
    scale = Features().scale(torch.from_numpy(store.theta()), torch.from_numpy(store.grad()))
    assert scale == pytest.approx(scale_of_store(store), rel=1e-6)


def test_several_stores_each_have_their_scale(store: TripleStore, accelerator: Accelerator, fitted: AutoS) -> None:
    samples = StoredSamples([store, store], CONFIG)
    both = fit(samples, accelerator)
    assert len(both.card["runs"]) == 2
    assert validate(both, samples, 1)["mse"] == pytest.approx(validate(fitted, samples, 1)["mse"], rel=0.1)


def test_fit_stops_after_max_steps(store: TripleStore, accelerator: Accelerator) -> None:
    steps = list[int]()
    half = fit(
        StoredSamples([store], replace(CONFIG, epochs=3, max_steps=130, memory="64MB", weights=(0.5,)), threads=0),
        accelerator,
        progress=lambda done, counters: steps.append(counters.samples),
    )
    per_epoch = len(store) * 9 // 10 // 2 // CONFIG.batch_size
    assert per_epoch < 50
    assert steps == [CONFIG.batch_size * k for k in range(1, 131)]
    assert len(half.card["losses"]) == -(-130 // per_epoch)
    assert all(0 < loss < 0.2 for loss in half.card["losses"])


def test_overlap_and_spearman() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 3]) / 3
    assert overlap(labels, labels, 0.25) == 1.0
    assert overlap(-labels, labels, 0.25) == 0.0
    assert overlap(np.arange(8.0), labels, 3 / 8) == pytest.approx((2 + 0.5) / 3)  # one of two ties, by chance
    assert spearman(labels, 5 * labels**3) == pytest.approx(1.0)
    assert spearman(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1.0)


def test_weights_or_gradients_that_cannot_be_scaled_raise(fitted: AutoS) -> None:
    values = torch.randn(10)
    with pytest.raises(UserError, match="gradients are zero everywhere"):
        fitted.score(values, torch.zeros(10))
    with pytest.raises(UserError, match="weights are not finite"):
        fitted.score(values / 0, values)
