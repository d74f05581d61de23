"""Fits to every iteration of a run, and AutoS in rounds."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from autosparse import networks
from autosparse.autos import (
    AutoS,
    AutoSCriterion,
    Features,
    IterationSamples,
    RunSample,
    StoredSamples,
    fit,
    measure_iterations,
    validate,
)
from autosparse.config import FitConfig
from autosparse.criteria import Scoring, select
from autosparse.criteria.gradient import mean_gradient
from autosparse.criteria.synflow import dataflow
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask, keep_top
from autosparse.store import TripleStore, order
from autosparse.tasks import Data
from tests.models import digits

pytestmark = pytest.mark.usefixtures("small_mlp")
Script = Callable[..., int]
CONFIG = FitConfig(features=("theta", "grad", "flow"), rounds=3, max_steps=40, epochs=9, anneal=True)
FEATURES = Features.of(CONFIG)


def initial_model() -> nn.Module:
    return networks.build("lenet-300-100", (1, 8, 8), 10, seed=0)


@pytest.fixture(scope="module")
def run(store: TripleStore) -> RunSample:
    return measure_iterations(store, initial_model(), Scoring(digits().scoring(256, 2)), CONFIG)


@pytest.fixture(scope="module")
def fitted(store: TripleStore, accelerator: Accelerator, run: RunSample, small_mlp: None) -> AutoS:
    return fit(IterationSamples([store], CONFIG, [run]), accelerator)


def test_samples_are_those_of_the_masked_network(
    run: RunSample, store: TripleStore, model: nn.Module, data: Data
) -> None:
    layout = Layout.of(model)
    held_out = torch.zeros(len(store), dtype=torch.bool)
    held_out[torch.from_numpy(order.part_indices(0, len(store), 0, "held-out"))] = True
    assert torch.equal(torch.unique(run.train.iteration), torch.arange(4))
    for i in (0, 2):
        masked, mask = initial_model(), store.mask(i)
        mask.apply_(masked)
        columns = (
            layout.flatten(layout.weights(masked)),
            mean_gradient(masked, layout, Scoring(data.scoring(256, 2))),
            dataflow(masked, mask, Scoring(data.scoring(256, 2))),
        )
        survival = torch.from_numpy(store.survival().astype("int64"))
        for part, of_part in ((run.train, ~held_out), (run.held_out, held_out)):
            sample = part[part.iteration == i]
            for values, column in zip(sample.columns, columns, strict=True):
                kept = column[mask.kept].double()
                magnitude = kept.mean() if column is columns[2] else kept.square().mean().sqrt()
                torch.testing.assert_close(values, column[mask.kept & of_part] / magnitude.float())
            torch.testing.assert_close(sample.labels, (survival[mask.kept & of_part] - i).double() / (4 - i))


def test_measuring_leaves_the_model_unchanged(store: TripleStore, model: nn.Module, data: Data) -> None:
    scoring, config = Scoring(data.scoring(256, 1)), replace(CONFIG, label="log-density")
    once = measure_iterations(store, model, scoring, replace(config, rounds=1))
    assert once.train.iteration.unique().tolist() == [0]
    assert all(torch.equal(value, initial_model().state_dict()[name]) for name, value in model.state_dict().items())
    # Labels are those of a run that starts after iteration i: two of 4 iterations to 1% are left after the second.
    every = measure_iterations(store, model, scoring, config)
    labels = every.train.labels[every.train.iteration == 2].unique()
    assert labels.tolist() == pytest.approx([0, 0.5, 1.0], abs=0.01)


def test_table_is_made_from_the_held_out_part(run: RunSample, store: TripleStore) -> None:
    samples = IterationSamples([store], CONFIG, [run])
    (sample,) = samples.tabulation()
    assert torch.equal(sample.columns[0].sort().values, run.held_out.columns[0].sort().values)
    assert len(samples.validation(0, "all")) == len(run.train) + len(run.held_out)


def test_all_iterations_have_the_same_weight(run: RunSample, store: TripleStore, accelerator: Accelerator) -> None:
    samples = IterationSamples([store, store], replace(CONFIG, weights=(1.0, 3.0)), [run, run])
    drawn = torch.cat([*samples.batches(accelerator).source])
    of_second = drawn >= len(run.train)
    counts = torch.bincount(run.train.iteration[drawn % len(run.train)] + 4 * of_second).double()
    expected = torch.tensor([1.0, 3.0]).repeat_interleave(4).double() / 16
    torch.testing.assert_close(counts / len(drawn), expected, atol=0.01, rtol=0)
    assert all(inputs.shape == (1024, 3) for inputs, _ in samples.batches(accelerator))


def test_fit_predicts_what_was_held_out(fitted: AutoS, run: RunSample, store: TripleStore) -> None:
    metrics = validate(fitted, IterationSamples([store], CONFIG, [run]))
    assert metrics["spearman"] > 0.1  # after forty steps
    errors = fitted.score(*run.held_out.columns, scale=run.held_out.scale) - run.held_out.labels
    assert metrics["mse_all"] == pytest.approx(errors.square().mean().item(), rel=1e-4)
    assert metrics["samples"] == int((run.held_out.iteration == 0).sum())
    assert fitted.rounds == 3


def test_annealed_fit_differs_from_a_constant_one(run: RunSample, store: TripleStore, accelerator: Accelerator) -> None:
    samples = [IterationSamples([store], replace(CONFIG, max_steps=9, anneal=each), [run]) for each in (True, False)]
    scores = [fit(each, accelerator).score(*run.held_out.columns, scale=run.held_out.scale) for each in samples]
    assert not torch.equal(*scores)


def test_each_round_measures_the_masked_network_again(fitted: AutoS, model: nn.Module, data: Data) -> None:
    layout, k, scoring = Layout.of(model), 2000, Scoring(data.scoring(256, 2))
    chosen = select(AutoSCriterion(fitted), model, Mask.full(layout), scoring, k)
    theta, mask = layout.flatten(layout.weights(model)).clone(), Mask.full(layout)
    for i in range(1, 4):
        masked = initial_model()
        mask.apply_(masked)
        columns = (theta * mask.kept, mean_gradient(masked, layout, scoring), dataflow(masked, mask, scoring))
        scores = fitted.score(*columns, scale=FEATURES.scale(*(values[mask.kept] for values in columns)))
        mask = keep_top(scores, round(layout.size ** (1 - i / 3) * k ** (i / 3)), mask)
    assert (chosen.kept & mask.kept).sum() > 0.999 * k
    assert torch.equal(layout.flatten(layout.weights(model)), theta)
    one_shot = select(AutoSCriterion(fitted, rounds=1), model, Mask.full(layout), scoring, k)
    assert not torch.equal(one_shot.kept, chosen.kept)


class SmallestFirst(nn.Module):
    """Scores the smallest weights highest, so that it empties layers of large weights."""

    def forward(self, inputs: Tensor) -> Tensor:
        return -inputs[:, 0].abs()


def smallest_first(rounds: int) -> AutoSCriterion:
    return AutoSCriterion(AutoS(SmallestFirst(), "mlp", Features()), rounds)


def test_no_layer_collapses_in_rounds(model: nn.Module, data: Data, caplog: pytest.LogCaptureFixture) -> None:
    layout, k, scoring = Layout.of(model), 500, Scoring(data.scoring(256, 1))
    with torch.no_grad():
        model.get_parameter("fc1.weight").mul_(100)
    with caplog.at_level(logging.WARNING):
        mask = select(smallest_first(5), model, Mask.full(layout), scoring, k)
    assert mask.count == k
    assert min(mask.layer_densities().values()) >= 0.1 * k / layout.size
    assert "lost nearly all weights keep their best-scoring ones: fc1.weight" in caplog.text
    one_shot = select(smallest_first(1), model, Mask.full(layout), scoring, k)
    assert min(one_shot.layer_densities().values()) < 0.1 * k / layout.size


def test_disconnected_network_is_pruned_to_the_end(model: nn.Module, data: Data) -> None:
    layout = Layout.of(model)
    mask = Mask(layout, torch.arange(layout.size) < layout.size - 900)
    mask.kept[layout.layers[-1].offset :] = False
    mask.apply_(model)
    assert select(smallest_first(2), model, mask, Scoring(data.scoring(256, 1)), 100).count == 100


def test_fit_in_rounds_prunes_in_rounds_on_the_command_line(
    script: Script, irp_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["--runs", irp_run, "--epochs", "1", "--max-steps", "4", "--resolution", "8", "--output", tmp_path]
    assert script("fit", *fit, "--features", "theta", "grad", "flow", "--rounds", "2") == 0
    (folder,) = capsys.readouterr().out.splitlines()
    assert folder.endswith("_theta+grad+flow_scaled_r2_s0")
    card = json.loads((Path(folder) / "autos.json").read_text())["card"]
    assert card["fit"]["rounds"] == 2
    assert card["held_out"][0]["mse_all"] > 0
    prune = ["--criteria", folder, "--dataset", "digits", "--epochs", "2", "--sparsities", "0.9", "--seeds", "7"]
    assert script("prune", *prune, "--output", tmp_path) == 0
    assert script("prune", *prune, "--rounds", "1", "--output", tmp_path) == 0
    both = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert both[1].name == both[0].name.replace("_90_", "-r1_90_")
    masks = [Mask.load(run / "mask.safetensors") for run in both]
    assert not torch.equal(masks[0].kept, masks[1].kept)
    assert script("report", irp_run, folder, *both, "--output", tmp_path / "report") == 0
    assert (tmp_path / "report" / "figures" / f"autos_{Path(folder).name}_map.svg").is_file()


def test_another_network_raises(store: TripleStore, data: Data) -> None:
    other = networks.build("lenet-300-100", (1, 8, 8), 10, seed=5)
    with pytest.raises(UserError, match="cannot be built again with its initial weights"):
        measure_iterations(store, other, Scoring(data.scoring(256, 1)), CONFIG)


def test_other_data_raise(
    script: Script, irp_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autosparse.tasks.arrays.fingerprint", lambda name, root=None: "0000")
    assert script("fit", "--runs", irp_run, "--rounds", "2", "--output", tmp_path) == 2
    assert "is of other digits data than are here" in capsys.readouterr().err


def test_stored_samples_for_a_fit_in_rounds_raise(store: TripleStore) -> None:
    with pytest.raises(UserError, match="needs IterationSamples"):
        StoredSamples([store], FitConfig(rounds=3))
