"""The road of a criterion that looks ahead: IRP with a probe, a fit to what is stored, runs that prune by it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import autosparse
from autosparse.autos import AutoSCriterion, read_iterations
from autosparse.config import FitConfig, PruneConfig
from autosparse.errors import StoreError, UserError
from autosparse.files import read_json
from autosparse.jobs import PruneRun
from autosparse.jobs.base import TrainingOptions
from autosparse.lookahead import RecipeLearner
from autosparse.pruning import Mask
from autosparse.store import TripleStore, order
from autosparse.tasks import Data, Images
from tests.conftest import tree

DIGITS = ("--dataset", "digits", "--epochs", "2")


class StoppedError(Exception):
    """The process ends here."""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of IRP with a probe, and an AutoS fitted to its columns."""
    from tests.conftest import run_script

    output = tmp_path_factory.mktemp("lookahead")
    irp = ["--criteria", "magnitude", "--iterations", "3", "--seeds", "0", "--probe-steps", "5"]
    assert run_script("irp", *DIGITS, *irp, "--output", str(output), "--cluster", "inline") == 0
    runs = [str(path) for path in sorted((output / "irp").iterdir())]
    assert [Path(run).name for run in runs] == ["lenet-300-100_digits_magnitude_n3_k5_s0"]
    how = ["--features", "theta", "probe-gradient", "--rounds", "3", "--max-steps", "30", "--name", "ahead"]
    assert run_script("fit", "--runs", *runs, *how, "--output", str(output), "--cluster", "inline") == 0
    return output


def test_the_states_are_what_the_store_has(output: Path) -> None:
    store = TripleStore.open(output / "irp" / "lenet-300-100_digits_magnitude_n3_k5_s0")
    run = read_iterations(store, FitConfig(features=("theta", "probe-gradient"), rounds=3))
    held_out = torch.zeros(len(store), dtype=torch.bool)
    held_out[torch.from_numpy(order.part_indices(0, len(store), 0, "held-out"))] = True
    for i in range(3):
        sample, alive = run.train[run.train.iteration == i], store.mask(i).kept
        train = ~held_out[alive]
        columns = torch.from_numpy(store.theta())[alive], torch.from_numpy(store.probe("probe-gradient", i))
        for scaled, values in zip(sample.columns, columns, strict=True):
            torch.testing.assert_close(scaled, values[train] / values.double().square().mean().sqrt().float())
        survival = torch.from_numpy(store.survival().astype("int64"))[alive][train]
        torch.testing.assert_close(sample.labels, (survival - i).double() / (3 - i))
    with pytest.raises(StoreError, match="no column probe-theta, only probe-gradient"):
        read_iterations(store, FitConfig(features=("theta", "probe-theta"), rounds=3))


def job(output: Path, criterion: str, **options: Any) -> PruneRun:
    setting = TrainingOptions(task=Images(source="digits"), epochs=2)
    config = PruneConfig(criterion=criterion, sparsity=0.9, seed=100, **options)
    found = PruneRun(output=output, setting=setting, config=config)
    found.check()
    found.folder.mkdir(parents=True)
    return found


@pytest.mark.parametrize("criterion", ["short-irp", "ahead"])
def test_a_run_that_is_killed_in_a_probe_ends_with_the_same_mask(
    criterion: str, output: Path, accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(output / "autos" / criterion) if criterion == "ahead" else criterion
    whole, killed = (job(tmp_path / part, name, steps=4) for part in ("whole", "killed"))
    whole.run(accelerator)
    result = read_json(whole.folder / "result.json")
    rounds = 3 if criterion == "ahead" else 5
    training = 2 * 10  # steps: 1,350 images in batches of 128, the last one left out
    assert result["ahead"] == {"rounds": rounds, "steps": 4}
    assert result["cost"] == pytest.approx(1 + rounds * 4 / training)
    assert not [path for path in whole.folder.iterdir() if path.name.startswith("probe-")]

    original, calls = RecipeLearner.learn, 0

    def dying(learner: RecipeLearner, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise StoppedError
        original(learner, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RecipeLearner, "learn", dying)
        with pytest.raises(StoppedError):
            killed.run(accelerator)
    assert len([*killed.folder.glob("probe-*.safetensors")]) == 2  # of the rounds before
    killed.run(accelerator)
    masks = [Mask.load(each.folder / "mask.safetensors") for each in (whole, killed)]
    assert torch.equal(masks[0].kept, masks[1].kept)
    assert read_json(killed.folder / "result.json")["history"] == result["history"]
    assert not [*killed.folder.glob("probe-*")]


def test_all_rounds_take_a_training_if_not_told_otherwise(
    output: Path, accelerator: Accelerator, tmp_path: Path
) -> None:
    run = job(tmp_path, "short-irp", rounds=2)
    assert run.folder.name == "lenet-300-100_digits_short-irp-r2_90_s100"
    run.run(accelerator)
    assert read_json(run.folder / "result.json")["ahead"] == {"rounds": 2, "steps": 10}
    assert read_json(run.folder / "result.json")["cost"] == 2.0


def test_prune_looks_ahead_by_a_fit(output: Path, model: torch.nn.Module, data: Data) -> None:
    folder, batches = output / "autos" / "ahead", [*data.scoring(100, limit=4)]
    assert AutoSCriterion.load(folder).looks_ahead
    how: dict[str, Any] = {"steps_per_round": 3, "optimizer": torch.optim.Adam, "sparsity": 0.95}
    one, other = (autosparse.prune(model, batches, criterion=folder, **how) for _ in range(2))
    assert torch.equal(one.kept, other.kept)
    assert one.count == round(0.05 * one.layout.size)
    with pytest.raises(UserError, match=r"ahead looks ahead: .*give steps_per_round= and optimizer="):
        autosparse.prune(model, batches, criterion=folder)


def test_steps_without_a_look_ahead_are_refused(tmp_path: Path) -> None:
    setting = TrainingOptions(task=Images(source="digits"))
    for name in ("snip", "pretrained"):
        with pytest.raises(UserError, match=r"steps are for lookahead, .* and an AutoS of probes, not for"):
            PruneRun(output=tmp_path, setting=setting, config=PruneConfig(criterion=name, steps=3)).check()
    assert tree(tmp_path) == {}
