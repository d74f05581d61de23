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
from autosparse.store import TripleStore, order
from autosparse.tasks import Data, Images
from tests.conftest import run_script, tree

DIGITS = ("--dataset", "digits", "--epochs", "2")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, small_mlp: None) -> Path:
    """A run of IRP with a probe, and an AutoS fitted to its columns."""
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


@pytest.mark.parametrize(
    ("criterion", "options", "rounds", "steps"),
    [
        ("short-irp", {"steps": 4}, 5, 4),
        ("short-irp", {"rounds": 2}, 2, 10),  # all rounds together take a training if not told otherwise
        ("autos/ahead", {"steps": 4}, 3, 4),
    ],
)
def test_run_that_looks_ahead_costs_its_steps(
    criterion: str, options: Any, rounds: int, steps: int, output: Path, accelerator: Accelerator, tmp_path: Path
) -> None:
    name = str(output / criterion) if "/" in criterion else criterion
    config = PruneConfig(criterion=name, sparsity=0.9, seed=100, **options)
    setting = TrainingOptions(task=Images(source="digits"), epochs=2)
    run = PruneRun(output=tmp_path, setting=setting, config=config)
    run.check()
    run.folder.mkdir(parents=True)
    run.run(accelerator)
    assert ("_short-irp-r2_90_s100" in run.folder.name) == ("rounds" in options)
    result = read_json(run.folder / "result.json")
    assert result["ahead"] == {"rounds": rounds, "steps": steps}
    assert result["cost"] == pytest.approx(1 + rounds * steps / 20)  # a training has 2 * 10 steps
    assert not [*run.folder.glob("probe-*")]


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
