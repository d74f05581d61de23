"""`--track`: what TensorBoard's own reader finds of a run."""

import json
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.tracking import TensorBoardTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autosparse.jobs import tracking
from autosparse.jobs.tracking import Tracking
from tests.conftest import RUN, SMALL_IRP, Capture, Patch, Script, tree

STEPS = [*range(1, 11)]  # five trainings of two epochs


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Each tag's steps and values."""
    found = EventAccumulator(str(run / "tracking" / "tensorboard"))
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def steps(run: Path) -> dict[str, list[int]]:
    """Each tag's, sorted: the names of files of two attempts in one second and process do not sort by age."""
    return {tag: sorted(step for step, _ in events) for tag, events in scalars(run).items()}


def test_tracked_irp_logs_its_history_and_has_the_same_store(script: Script, irp_run: Path, tmp_path: Path) -> None:
    assert script("irp", *SMALL_IRP, "--track", "tensorboard", "--output", tmp_path) == 0
    run = tmp_path / "irp" / RUN
    found = scalars(run)
    history = json.loads((run / "history.json").read_text())
    iterations = [2, 4, 6, 8, 10]
    for name, key in (("accuracy", "test"), ("number", "iteration")):
        wanted = [(step, pytest.approx(row[key])) for step, row in zip(iterations, history, strict=True)]
        assert found[f"iteration/{name}"] == wanted
    assert [value for _, value in found["iteration/sparsity"]] == pytest.approx([1 - row["density"] for row in history])
    for tag in ("training/loss", "training/learning_rate", "validation/accuracy", "test/accuracy"):
        assert [step for step, _ in found[tag]] == STEPS
    assert found["test/accuracy"][1::2] == found["iteration/accuracy"]
    (settings,) = run.glob("tracking/tensorboard/*/hparams.yml")
    said = yaml.safe_load(settings.read_text())
    assert (said["criterion"], said["iterations"], said["recipe.epochs"]) == ("snip", 4, 2)
    assert tree(run / "triples.zarr").keys() == tree(irp_run / "triples.zarr").keys()
    assert history == json.loads((irp_run / "history.json").read_text())
    shards = [path for path in tree(run / "triples.zarr") if "/c/" in path]
    assert shards
    assert all((run / "triples.zarr" / path).read_bytes() == tree(irp_run / "triples.zarr")[path] for path in shards)


def test_resumed_run_logs_each_step_once(script: Script, tmp_path: Path, monkeypatch: Patch) -> None:
    log, left = Tracking.log, iter(range(6))  # until after the second iteration

    def stopping(self: Tracking, *told: Any) -> None:
        log(self, *told)
        if next(left) == 5:
            raise RuntimeError("lost power")

    command = ("irp", *SMALL_IRP, "--track", "tensorboard", "--output", tmp_path)
    monkeypatch.setattr(Tracking, "log", stopping)
    assert script(*command) == 2
    monkeypatch.setattr(Tracking, "log", log)
    assert script(*command) == 0
    found = steps(tmp_path / "irp" / RUN)
    assert found["test/accuracy"] == found["training/loss"] == STEPS
    assert found["iteration/sparsity"] == [2, 4, 6, 8, 10]
    assert len([*tmp_path.rglob("hparams.yml")]) == 1


def test_prune_and_fit_log_their_losses(script: Script, irp_run: Path, tmp_path: Path) -> None:
    how = ("--track", "tensorboard", "--output", tmp_path)
    short = ("--dataset", "digits", "--epochs", "2")
    assert script("prune", *short, "--sparsities", "0.9", "--seeds", "7", *how) == 0
    (run,) = (tmp_path / "prune").iterdir()
    result = json.loads((run / "result.json").read_text())
    assert scalars(run)["training/loss"] == [(each["epoch"], pytest.approx(each["loss"])) for each in result["history"]]
    fit = ("--epochs", "3", "--samples", "4096", "--resolution", "8", "--name", "a")
    assert script("fit", "--runs", irp_run, *fit, *how) == 0
    losses = json.loads((tmp_path / "autos" / "a" / "autos.json").read_text())["card"]["losses"]
    assert scalars(tmp_path / "autos" / "a") == {"fit/loss": [(k, pytest.approx(x)) for k, x in enumerate(losses, 1)]}


def test_failing_tracker_is_dropped_with_one_warning(
    script: Script, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    def fail(self: TensorBoardTracker, values: dict[str, float], step: int) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(TensorBoardTracker, "log", fail)
    command = ("--dataset", "digits", "--epochs", "2", "--sparsities", "0.9", "--seeds", "7")
    assert script("prune", *command, "--track", "tensorboard", "--output", tmp_path) == 0
    assert capsys.readouterr().err.count("going on without the tracker tensorboard: no server") == 1


@pytest.mark.parametrize("spec", [None, ModuleSpec("wandb", None)])
def test_missing_tracker_is_refused_before_any_work(
    spec: ModuleSpec | None, script: Script, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: spec)
    for command in (("irp",), ("fit", "--runs", tmp_path / "none")):
        assert script(*command, "--track", "wandb", "--output", tmp_path / "runs") == 2
        assert capsys.readouterr().err == "error: the tracker wandb is not installed: pip install wandb\n"
    assert not (tmp_path / "runs").exists()
