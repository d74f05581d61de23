"""Algorithm 2, and runs that resume with the same bytes."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, load_model, save_file
from torch import Tensor, nn

from autosparse.config import IRPConfig
from autosparse.criteria import Criterion, Scoring, make_criterion
from autosparse.criteria.gradient import mean_gradient
from autosparse.errors import UserError
from autosparse.irp import IRP
from autosparse.lookahead import Probe
from autosparse.pruning import Mask, Schedule
from autosparse.pruning.schedule import keep_count
from autosparse.store import TripleStore
from autosparse.store.schema import LEDGER, MARKER
from autosparse.store.storage import Folder
from autosparse.tasks import Data
from autosparse.training import Recipe, train
from tests.conftest import Patch, tree
from tests.models import GPT, digits
from tests.tasks.attention import Language

N = 3
RECIPE = Recipe(1, "nesterov", 0.05, batch_size=128)
CONFIG = IRPConfig(iterations=N, final_sparsity=0.95)
AUTHORS = replace(CONFIG, schedule="linear", batch_norm="running", prune_first=True, rewind="weights")
PROBED = replace(CONFIG, probe_steps=4, probe_columns=("probe-gradient", "probe-theta", "probe-rms"))


class KilledError(Exception):
    """Raised instead of killing the process."""


def fresh(network: str = "convolutional") -> nn.Module:
    torch.manual_seed(0)
    if network == "gpt":
        return GPT()
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(256, 10)
    )


def run(folder: Path, accelerator: Accelerator, network: str = "convolutional", **options: Any) -> list[dict[str, Any]]:
    data = Data(Language()) if network == "gpt" else digits()
    given = {"recipe": RECIPE, "config": CONFIG, **options}
    return IRP(model=fresh(network), data=data, folder=folder, accelerator=accelerator, **given).run()


def interrupt(folder: Path, accelerator: Accelerator, steps: int, config: IRPConfig = CONFIG, **more: Any) -> None:
    """Start a run and kill it after a number of steps, with a checkpoint of the last one."""

    def die(done: int) -> None:
        nonlocal steps
        steps -= done
        if steps < 0:
            raise KilledError

    with pytest.raises(KilledError):
        run(folder, accelerator, config=config, progress=die, checkpoint_interval=0, **more)


def spying(seen: list[dict[str, Tensor]], **options: Any) -> Criterion:
    """Return SNIP that records the states that it scores."""
    snip: Any = make_criterion("snip", **options)

    def score(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        scores: Tensor = snip(model, mask, scoring)
        return scores

    return score


@pytest.fixture(scope="module")
def whole(accelerator: Accelerator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, accelerator)
    return tree(folder)


@pytest.mark.parametrize("network", ["convolutional", "gpt"])
def test_triples_are_the_results_of_algorithm_2(network: str, accelerator: Accelerator, tmp_path: Path) -> None:
    seen = list[dict[str, Tensor]]()
    recipe = RECIPE if network == "convolutional" else Recipe(1, "adamw", 1e-2, batch_size=128)
    history = run(tmp_path, accelerator, network, criterion=spying(seen), recipe=recipe)
    store = TripleStore.open(tmp_path)
    assert store.problems() == []
    initial = load_file(tmp_path / "initial.safetensors")
    assert np.array_equal(store.theta(), store.layout.flatten(initial).numpy())

    # each iteration starts from the whole initial state under its mask, with a fresh optimizer
    for i, trained in enumerate(seen):
        model = fresh(network)
        load_model(model, tmp_path / "initial.safetensors")
        data = Data(Language()) if network == "gpt" else digits()
        if i == 0:
            batches = data.scoring()
            grad = mean_gradient(model, store.layout, Scoring(batches, batches.loss))
            assert np.array_equal(store.grad(), grad.numpy())
        train(model, store.mask(i), data, recipe, accelerator)
        assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())

    schedule = Schedule("geometric", N, 0.95)
    kept = [store.mask(i).kept for i in range(N + 1)]
    assert [int(mask.sum()) for mask in kept] == [keep_count(schedule.density(i), len(store)) for i in range(N + 1)]
    assert all(not (b & ~a).any() for a, b in itertools.pairwise(kept))
    assert np.array_equal(store.survival(), sum(mask.int() for mask in kept[1:]).numpy())
    assert [row["iteration"] for row in history] == list(range(N + 1))
    assert history == json.loads((tmp_path / "history.json").read_text())
    assert network != "convolutional" or history[0]["test"] > 0.7
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [1, 3, 5, 6])  # theta and grad, the second of three masks, survival, the marker
def test_run_killed_around_a_commit_ends_with_the_same_bytes(
    number: int, when: str, whole: dict[str, bytes], accelerator: Accelerator, tmp_path: Path, monkeypatch: Patch
) -> None:
    original, calls = Folder.put, 0

    def dying(folder: Folder, name: str, parts: list[memoryview], replace: bool = False) -> None:
        nonlocal calls
        committing = name in (LEDGER, MARKER)
        if committing and calls == number and when == "before":
            raise KilledError
        original(folder, name, parts, replace)
        if committing and calls == number:
            raise KilledError
        calls += committing

    monkeypatch.setattr(Folder, "put", dying)
    with pytest.raises(KilledError):
        run(tmp_path, accelerator)
    monkeypatch.undo()
    trained: list[int] = []
    run(tmp_path, accelerator, progress=trained.append)
    assert tree(tmp_path) == whole
    if number == 6:
        assert sum(trained) == (4 * 10 if when == "before" else 0)  # reported as done, but not trained again
        assert len(trained) == (when == "before")


def test_probes_store_columns_and_change_nothing_else(
    whole: dict[str, bytes], accelerator: Accelerator, tmp_path: Path
) -> None:
    run(tmp_path, accelerator, config=PROBED)
    store = TripleStore.open(tmp_path)
    assert store.problems() == []
    assert store.columns == ["probe-gradient", "probe-theta", "probe-rms"]
    plain = tree(tmp_path)
    for name, content in whole.items():  # all else is as it was without
        if name == "history.json" or "/c/" in name:
            assert plain[name] == content
    data = digits()
    for i in range(N):
        model = fresh()
        model.load_state_dict(load_file(tmp_path / "initial.safetensors"))
        probe = Probe(store.layout, 4, PROBED.probe_columns)
        train(model, store.mask(i), data, RECIPE, accelerator, callback=probe, steps=4)
        for name, values in probe.columns.items():
            assert np.array_equal(store.probe(name, i), values[store.mask(i).kept].numpy())


def test_rewind_epoch_restores_the_state_after_that_epoch(accelerator: Accelerator, tmp_path: Path) -> None:
    seen = list[dict[str, Tensor]]()
    run(tmp_path / "a", accelerator, criterion=spying(seen), config=replace(CONFIG, rewind_epoch=1))
    rewound = load_file(tmp_path / "a" / "rewind.safetensors")
    assert all(torch.equal(rewound[name], value) for name, value in seen[0].items())  # the recipe has one epoch
    initial, store = load_file(tmp_path / "a" / "initial.safetensors"), TripleStore.open(tmp_path / "a")
    assert np.array_equal(store.theta(), store.layout.flatten(initial).numpy())  # features stay the initial ones
    model = fresh()
    model.load_state_dict(rewound)
    train(model, store.mask(1), digits(), RECIPE, accelerator)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in seen[1].items())


@pytest.fixture(scope="module")
def authors(accelerator: Accelerator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run by the protocol of the paper's authors."""
    folder = tmp_path_factory.mktemp("authors")
    run(folder, accelerator, config=AUTHORS)
    return folder


def test_authors_protocol_prunes_first_and_rewinds_weights_alone(
    authors: Path, accelerator: Accelerator, tmp_path: Path
) -> None:
    seen = list[dict[str, Tensor]]()
    run(tmp_path, accelerator, config=AUTHORS, criterion=spying(seen, batch_norm="running"))
    arrays = [name for name in tree(authors) if "/c/" in name]
    assert {name: tree(tmp_path)[name] for name in arrays} == {name: tree(authors)[name] for name in arrays}
    initial, store = load_file(authors / "initial.safetensors"), TripleStore.open(authors)
    assert store.densities == pytest.approx([1.0, 1 - 0.95 / 3, 1 - 1.9 / 3, 0.05], abs=1e-3)  # linear
    assert all(torch.equal(value, seen[0][name]) for name, value in initial.items())
    for i, before in ((1, initial), (2, seen[1])):
        model = fresh()
        model.load_state_dict(before | {layer.name: initial[layer.name] for layer in store.layout.layers})
        train(model, store.mask(i), digits(), RECIPE, accelerator)
        assert all(torch.equal(value, seen[i][name]) for name, value in model.state_dict().items())
    assert not torch.equal(seen[1]["1.running_mean"], seen[2]["1.running_mean"])


def test_authors_protocol_killed_in_training_ends_with_the_same_bytes_or_names_a_changed_state(
    authors: Path, accelerator: Accelerator, tmp_path: Path
) -> None:
    changed, resumed = tmp_path / "changed", tmp_path / "resumed"
    interrupt(changed, accelerator, 25, AUTHORS)
    shutil.copytree(changed, resumed)
    alter(changed / "carried-1.safetensors")
    with pytest.raises(UserError, match=r"carried-1.safetensors is not what the run committed; delete this file alone"):
        run(changed, accelerator, config=AUTHORS)
    (changed / "carried-1.safetensors").unlink()
    for folder in (changed, resumed):
        run(folder, accelerator, config=AUTHORS)
        assert tree(folder) == tree(authors)
    (resumed / "history.json").unlink()
    interrupt(resumed, accelerator, 25, AUTHORS)  # while the history of a complete store is made again
    run(resumed, accelerator, config=AUTHORS)
    assert tree(resumed) == tree(authors)


def test_nan_score_raises_and_names_iteration_and_layer(accelerator: Accelerator, tmp_path: Path) -> None:
    def broken(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
        scores = torch.arange(mask.layout.size, dtype=torch.float32)
        if mask.sparsity:
            scores[mask.kept.nonzero()[-1]] = torch.nan
        return scores

    with pytest.raises(UserError, match=r"iteration 1: 1 scores are NaN, the first in layer 5\.weight"):
        run(tmp_path, accelerator, criterion=broken)
    assert TripleStore.open(tmp_path, unfinished=True).densities == pytest.approx([1.0, 0.05 ** (1 / 3)], abs=1e-3)


def test_folder_of_another_run_raises(accelerator: Accelerator, tmp_path: Path) -> None:
    def stop(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
        raise KilledError

    with pytest.raises(KilledError):
        run(tmp_path, accelerator, criterion=stop, attributes={"seed": 4})
    with pytest.raises(UserError, match=r"is the store of a run with seed = 4, not 5"):
        run(tmp_path, accelerator, attributes={"seed": 5})
    with pytest.raises(UserError, match=r"is the store of a run with criterion = snip, not magnitude"):
        run(tmp_path, accelerator, config=replace(CONFIG, criterion="magnitude"), attributes={"seed": 4})


def test_lost_or_uncommitted_files_are_made_again(
    whole: dict[str, bytes], accelerator: Accelerator, tmp_path: Path
) -> None:
    (tmp_path / "initial.safetensors").write_bytes(whole["initial.safetensors"])
    alter(tmp_path / "initial.safetensors")  # not committed yet
    interrupt(tmp_path, accelerator, 25)
    (tmp_path / "history.json").unlink()
    run(tmp_path, accelerator)
    assert tree(tmp_path) == whole
    shutil.rmtree(tmp_path / "triples.zarr")
    run(tmp_path, accelerator)
    assert tree(tmp_path) == whole


def test_another_version_resumes_with_the_same_numbers(
    whole: dict[str, bytes], accelerator: Accelerator, tmp_path: Path
) -> None:
    before = {"versions": {"autosparse": "0.0.1"}, "commit": "before"}
    interrupt(tmp_path, accelerator, 15, attributes=before)
    after = {"versions": {"autosparse": "9.9.9"}, "commit": "after", "an option of later": True}
    run(tmp_path, accelerator, attributes=after)
    numbers = [name for name in whole if "/c/" in name or name.endswith((".safetensors", "history.json"))]
    assert {name: tree(tmp_path)[name] for name in numbers} == {name: whole[name] for name in numbers}
    assert before.items() <= TripleStore.open(tmp_path).run.items()


def alter(path: Path) -> None:
    """Change the numbers of a state, but not its names and shapes."""
    state = load_file(path)
    save_file({name: value + 1 if value.is_floating_point() else value for name, value in state.items()}, path)


def test_changed_state_or_history_raises_and_a_deleted_one_is_made_again(
    whole: dict[str, bytes], accelerator: Accelerator, tmp_path: Path
) -> None:
    interrupt(tmp_path, accelerator, 15)
    state = load_file(tmp_path / "initial.safetensors")
    state["1.running_mean"] += 1  # nothing of theta
    save_file(state, tmp_path / "initial.safetensors")
    rows = json.loads(whole["history.json"])
    rows[2]["test"] += 0.01
    for name, content, message in (
        ("initial.safetensors", None, "is not what the run committed; delete this file alone"),
        ("history.json", json.dumps(rows), r"is not what the run committed \(iteration 2\); delete this file alone"),
        ("history.json", "", "is damaged; delete this file alone"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=f"{name} {message}"):
            run(tmp_path, accelerator)
        (tmp_path / name).unlink()  # as it says
        run(tmp_path, accelerator)  # trains again under the masks of the store
        assert tree(tmp_path) == whole


@pytest.mark.parametrize("steps", [15, 25])  # past the rewind state: in the first training, in the second
def test_changed_rewind_state_raises_and_a_deleted_one_is_made_again(
    steps: int, accelerator: Accelerator, tmp_path: Path
) -> None:
    config, recipe = replace(CONFIG, iterations=2, rewind_epoch=1), replace(RECIPE, epochs=2)
    run(tmp_path / "whole", accelerator, config=config, recipe=recipe)
    interrupt(tmp_path / "a", accelerator, steps, config, recipe=recipe)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    alter(tmp_path / "a" / "rewind.safetensors")
    with pytest.raises(UserError, match=r"rewind.safetensors is not what the run committed; delete this file alone"):
        run(tmp_path / "a", accelerator, config=config, recipe=recipe)
    for folder in (tmp_path / "a", tmp_path / "b"):
        (folder / "rewind.safetensors").unlink()
        run(folder, accelerator, config=config, recipe=recipe)
        assert tree(folder) == tree(tmp_path / "whole")


def test_damaged_checkpoint_raises_and_that_of_another_run_is_ignored(
    whole: dict[str, bytes], accelerator: Accelerator, tmp_path: Path
) -> None:
    interrupt(tmp_path / "a", accelerator, 15)
    checkpoint = tmp_path / "a" / "checkpoint.pt"
    content = bytearray(checkpoint.read_bytes())
    weights = torch.load(checkpoint, weights_only=True)["model"]["5.weight"].numpy().tobytes()
    content[content.index(weights) + 101] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint .* cannot be read; delete it and run the same again"):
        run(tmp_path / "a", accelerator)

    interrupt(tmp_path / "b", accelerator, 15, replace(CONFIG, final_sparsity=0.9))
    shutil.copy(tmp_path / "b" / "checkpoint.pt", checkpoint)
    run(tmp_path / "a", accelerator)
    assert tree(tmp_path / "a") == whole


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"criterion": make_criterion("synflow")}, "scores for one final sparsity, and IRP has one an iteration"),
        ({"config": replace(CONFIG, probe_steps=11)}, "a probe of 11 steps is longer than the training, of 10"),
    ],
)
def test_what_irp_cannot_do_raises(wrong: Any, message: str, accelerator: Accelerator, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, accelerator, **wrong)
