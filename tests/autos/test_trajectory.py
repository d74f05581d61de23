"""Fits to the states of pruning, and AutoS in rounds."""

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
    States,
    StoredSamples,
    TrajectorySamples,
    fit,
    states_of,
    validate,
)
from autosparse.config import FitConfig
from autosparse.criteria import Scoring, select
from autosparse.criteria.dataflow import dataflow
from autosparse.criteria.gradient import mean_gradient
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask, keep_top
from autosparse.store import TripleStore, order
from autosparse.tasks import Data
from autosparse.tasks.arrays import load
from autosparse.training import Checkpoint
from tests.models import digits

pytestmark = pytest.mark.usefixtures("small_mlp")
Script = Callable[..., int]
FEATURES = Features(names=("theta", "grad", "flow"))
CONFIG = FitConfig(features=("theta", "grad", "flow"), rounds=3, max_steps=40, epochs=9, anneal=True)


@pytest.fixture(scope="module")
def store(irp_run: Path) -> TripleStore:
    return TripleStore.open(irp_run)


@pytest.fixture
def states(store: TripleStore, model: nn.Module, data: Data) -> States:
    return states_of(store, model, Scoring(data.scoring(256, 2)), FEATURES, "share")


@pytest.fixture(scope="module")
def fitted(store: TripleStore, accelerator: Accelerator, small_mlp: None) -> AutoS:
    images = load("digits")
    model = networks.build("lenet-300-100", images.shape, images.classes, seed=0)
    batches = digits().scoring(256, 2)
    states = states_of(store, model, Scoring(batches), FEATURES, "share")
    return fit(TrajectorySamples([store], CONFIG, [states]), accelerator)


def test_states_are_those_of_the_masked_network(
    states: States, store: TripleStore, model: nn.Module, data: Data
) -> None:
    layout = Layout.of(model)
    before = layout.flatten(layout.weights(model))
    assert torch.equal(torch.unique(states.iteration), torch.arange(4))
    for i in (0, 2):
        mask = store.mask(i)
        mask.apply_(model)
        columns = (
            layout.flatten(layout.weights(model)),
            mean_gradient(model, layout, Scoring(data.scoring(256, 2))),
            dataflow(model, mask, Scoring(data.scoring(256, 2))),
        )
        here = states[states.iteration == i]
        assert len(here.labels) == mask.count  # few enough for all of them
        for found, column in zip(here.columns, columns, strict=True):
            alive = column[mask.kept]
            size = alive.double().mean() if column is columns[2] else alive.double().square().mean().sqrt()
            torch.testing.assert_close(found, alive / size.float())
        survival = torch.from_numpy(store.survival().astype("int64"))[mask.kept]
        torch.testing.assert_close(here.labels, (survival - i).float() / (4 - i))
        model.load_state_dict(networks.build("lenet-300-100", (1, 8, 8), 10, seed=0).state_dict())
    assert torch.equal(layout.flatten(layout.weights(model)), before)


def test_the_label_of_log_density_starts_where_the_iteration_left(
    store: TripleStore, model: nn.Module, data: Data
) -> None:
    states = states_of(store, model, Scoring(data.scoring(256, 1)), Features(), "log-density", iterations=3)
    last = states.labels[states.iteration == 2].unique()
    assert last.tolist() == pytest.approx([0, 0.5, 1.0], abs=0.01)  # of 4 iterations to 1%, two are left


def test_the_same_tenth_is_held_out_of_every_state(states: States, store: TripleStore) -> None:
    held_out = torch.zeros(len(store), dtype=torch.bool)
    held_out[torch.from_numpy(order.part_indices(0, len(store), 0, "held-out"))] = True
    for i in range(4):
        assert torch.equal(states[states.iteration == i].held_out, held_out[store.mask(i).kept])
    (seen,) = TrajectorySamples([store], CONFIG, [states]).tabulation()
    assert len(seen.labels) == int(states.held_out.sum())
    assert torch.equal(seen.columns[0].sort().values, states[states.held_out].columns[0].sort().values)


def test_all_iterations_count_the_same(states: States, store: TripleStore, accelerator: Accelerator) -> None:
    samples = TrajectorySamples([store, store], replace(CONFIG, weights=(1.0, 3.0)), [states, states])
    sampler = samples.batches(accelerator).sampler
    fitted = states.iteration[~states.held_out]
    drawn = torch.cat([*sampler])
    of_second = drawn >= len(fitted)
    counts = torch.bincount(fitted[drawn % len(fitted)] + 4 * of_second).double()
    torch.testing.assert_close(
        counts / len(drawn), torch.tensor([1.0, 3.0]).repeat_interleave(4).double() / 16, atol=0.01, rtol=0
    )
    assert all(inputs.shape == (1024, 3) for inputs, _ in samples.batches(accelerator))


def test_another_network_is_refused(store: TripleStore, data: Data) -> None:
    other = networks.build("lenet-300-100", (1, 8, 8), 10, seed=5)
    with pytest.raises(UserError, match="cannot be built again with its initial weights"):
        states_of(store, other, Scoring(data.scoring(256, 1)), FEATURES, "share")


def test_a_fit_to_states_predicts_what_was_held_out(fitted: AutoS, states: States, store: TripleStore) -> None:
    metrics = validate(fitted, TrajectorySamples([store], CONFIG, [states]))
    assert metrics["spearman"] > 0.1  # of forty steps
    seen = states[states.held_out]
    errors = fitted.score(*seen.columns, scale=seen.sample.scale) - seen.labels
    assert metrics["mse_all"] == pytest.approx(errors.square().mean().item(), rel=1e-4)
    assert metrics["samples"] == int((seen.iteration == 0).sum())
    assert fitted.rounds == 3


def test_rounds_look_anew_and_are_those_of_the_algorithm(fitted: AutoS, model: nn.Module, data: Data) -> None:
    layout, k, batches = Layout.of(model), 2000, data.scoring(256, 2)
    found = select(AutoSCriterion(fitted), model, Mask.full(layout), Scoring(batches), k)
    theta, mask = layout.flatten(layout.weights(model)).clone(), Mask.full(layout)
    for i in range(1, 4):
        masked = networks.build("lenet-300-100", (1, 8, 8), 10, seed=0)
        mask.apply_(masked)
        columns = (
            theta * mask.kept,
            mean_gradient(masked, layout, Scoring(batches)),
            dataflow(masked, mask, Scoring(batches)),
        )
        scores = fitted.score(*columns, scale=FEATURES.scale(*(values[mask.kept] for values in columns)))
        mask = keep_top(scores, round(layout.size ** (1 - i / 3) * k ** (i / 3)), mask)
    assert (found.kept & mask.kept).sum() > 0.999 * k
    assert torch.equal(layout.flatten(layout.weights(model)), theta)
    one_shot = select(AutoSCriterion(fitted, rounds=1), model, Mask.full(layout), Scoring(batches), k)
    assert not torch.equal(one_shot.kept, found.kept)


class Fond(nn.Module):
    """Scores the smallest weights highest, so that it empties layers of large ones."""

    def forward(self, inputs: Tensor) -> Tensor:
        return -inputs[:, 0].abs()


def test_no_layer_collapses_and_it_is_said(model: nn.Module, data: Data, caplog: pytest.LogCaptureFixture) -> None:
    layout, k = Layout.of(model), 500
    with torch.no_grad():
        model.get_parameter("fc1.weight").mul_(100)
    criterion = AutoSCriterion(AutoS(Fond(), "mlp", Features()), rounds=5)
    with caplog.at_level(logging.WARNING):
        mask = select(criterion, model, Mask.full(layout), Scoring(data.scoring(256, 1)), k)
    assert mask.count == k
    for density in mask.layer_densities().values():
        assert density >= 0.1 * k / layout.size
    assert "kept from collapse, by weights that score lower than others: fc1.weight" in caplog.text
    bare = select(
        AutoSCriterion(AutoS(Fond(), "mlp", Features()), rounds=1),
        model,
        Mask.full(layout),
        Scoring(data.scoring(256, 1)),
        k,
    )
    assert min(bare.layer_densities().values()) < 0.1 * k / layout.size


def test_a_network_that_rounds_cut_in_two_is_pruned_to_the_end(model: nn.Module, data: Data) -> None:
    layout = Layout.of(model)
    mask = Mask(layout, torch.arange(layout.size) < layout.size - 900)  # most of the last layer is gone
    mask.kept[layout.layers[-1].offset :] = False
    mask.apply_(model)
    criterion = AutoSCriterion(AutoS(Fond(), "mlp", Features()), rounds=2)
    assert select(criterion, model, mask, Scoring(data.scoring(256, 1)), 100).count == 100


def test_columns_that_are_not_the_features_are_refused(fitted: AutoS) -> None:
    values = torch.randn(9)
    with pytest.raises(UserError, match="this AutoS reads weights and gradients and flows, float32 vectors of one"):
        fitted.score(values, values)
    with pytest.raises(UserError, match="rounds must be at least 1, got 0"):
        AutoSCriterion(fitted, rounds=0)


def test_from_the_command_line(
    script: Script, irp_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["--runs", irp_run, "--epochs", "1", "--max-steps", "4", "--resolution", "8", "--output", tmp_path]
    assert script("autos", *fit, "--features", "theta", "grad", "flow", "--rounds", "2") == 0
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
    capsys.readouterr()
    assert script("prune", *prune[2:], "--criteria", "snip", "--rounds", "3", "--output", tmp_path) == 2
    assert "an AutoS of probes, not for snip; snip in rounds is iterative-snip" in capsys.readouterr().err


def test_a_store_of_other_data_is_refused(
    script: Script, irp_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autosparse.tasks.arrays.fingerprint", lambda name, root=None: "0000")
    assert script("autos", "--runs", irp_run, "--rounds", "2", "--output", tmp_path) == 2
    assert "is of other digits data than are here" in capsys.readouterr().err


def test_a_stopped_fit_to_states_ends_with_the_same_bits(
    states: States, store: TripleStore, accelerator: Accelerator, tmp_path: Path
) -> None:
    samples = TrajectorySamples([store], replace(CONFIG, max_steps=12), [states])
    whole = fit(samples, accelerator)
    steps = 0

    def stop(done: int, counters: object) -> None:
        nonlocal steps
        steps += done
        if steps == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(samples, accelerator, resume=Checkpoint(tmp_path / "c.pt", "x", 0.0), progress=stop)
    resumed = fit(samples, accelerator, resume=Checkpoint(tmp_path / "c.pt", "x"))
    assert resumed.digest == whole.digest
    constant = replace(samples, config=replace(samples.config, anneal=False))
    assert fit(constant, accelerator).digest != whole.digest


def test_what_does_not_go_together_is_refused(store: TripleStore, states: States) -> None:
    with pytest.raises(UserError, match=r"needs the states of its runs \(TrajectorySamples\)"):
        StoredSamples([store], FitConfig(rounds=3))
    with pytest.raises(UserError, match=r"is made from the stores \(StoredSamples\)"):
        TrajectorySamples([store], FitConfig(), [states])
    with pytest.raises(UserError, match="the transform raw is for fits to stored triples"):
        FitConfig(transform="raw", rounds=3)
