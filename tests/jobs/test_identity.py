"""What tells one run from another: the name of its folder, and its configuration."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import yaml

from autosparse.autos import BACKBONES
from autosparse.autos.features import FEATURES
from autosparse.cluster.provenance import config_difference, write_config
from autosparse.config import (
    CRITERIA,
    PRETRAINED,
    Backbone,
    Feature,
    FitConfig,
    IRPConfig,
    OneShot,
    PruneConfig,
    Unrolled,
)
from autosparse.criteria import Targeted, make_criterion
from autosparse.errors import UserError
from autosparse.jobs import IRPRun, PruneRun
from autosparse.jobs.setting import Setting
from autosparse.tasks import Images

DIGITS = Setting(task=Images(source="digits"))


def test_folders_are_named_to_be_read(tmp_path: Path) -> None:
    setting, config = Setting(task=Images(network="resnet18", source="cifar10")), PruneConfig(sparsity=0.985, seed=3)
    run = PruneRun(output=tmp_path, setting=setting, config=config)
    assert run.folder == tmp_path / "prune" / "resnet18_cifar10_snip_98.5_s3"


def test_the_configuration_is_resolved() -> None:
    one, other = (IRPRun(setting=each).identity() for each in (DIGITS, replace(DIGITS, epochs=60, precision="bf16")))
    assert (one["recipe"]["epochs"], other["recipe"]["epochs"], other["recipe"]["precision"]) == (30, 60, "bf16")
    assert one["validation"] == 0.1
    assert one["order_seed"] == 0
    assert Images(network="resnet18", source="cifar10", recipe_name="paper").validation_share == 0.0
    assert IRPRun(setting=replace(DIGITS, epochs=30)).identity() == one  # the same in other words
    assert "output" not in one


def test_an_option_at_its_default_is_no_part_of_the_identity(tmp_path: Path) -> None:
    run = IRPRun(setting=DIGITS, output=tmp_path)
    write_config(run)
    (run.folder / "history.json").write_text("[]")  # there is output
    path = run.folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    assert config.pop("options") == run.options()  # which are no part of it either
    assert config == run.identity()
    del config["rewind_epoch"], config["recipe"]["channels_last"]  # as if from before there was a choice
    path.write_text(yaml.safe_dump(config, explicit_end=True))
    assert config_difference(run) is None
    later = replace(run, setting=replace(DIGITS, channels_last=True))
    assert "is a run with channels_last = False, asked for is True" in (config_difference(later) or "")
    config["rewind_epoch"] = 1
    path.write_text(yaml.safe_dump(config, explicit_end=True))
    assert "is a run with rewind_epoch = 1, asked for is 0" in (config_difference(run) or "")


def test_the_mode_of_batch_norm_is_part_of_a_run_where_the_criterion_has_one(tmp_path: Path) -> None:
    run = PruneRun(setting=DIGITS, output=tmp_path, config=PruneConfig(criterion="grasp"))
    other = replace(run, config=replace(run.config, batch_norm="running"))
    assert (run.label, other.label) == ("grasp", "grasp-running")
    assert other.folder.name == "lenet-300-100_digits_grasp-running_95_s0"
    assert other.identity()["batch_norm"] == "running"
    write_config(run)
    (run.folder / "result.json").write_text("{}")
    path = run.folder / "config.yaml"
    path.write_text(
        yaml.safe_dump({k: v for k, v in run.identity().items() if k != "batch_norm"}, explicit_end=True)
    )  # from before
    assert config_difference(run) is None
    other.check()
    for criterion in ("synflow", PRETRAINED, "runs/autos/mine", "mine.py:mine"):
        with pytest.raises(UserError, match=f"^{criterion} has no batch norm of mode running; snip, .* have$"):
            replace(other, config=PruneConfig(criterion=criterion, batch_norm="running")).check()


def test_the_choices_are_those_that_there_are() -> None:
    one_shot = [*get_args(OneShot), *get_args(Unrolled)]
    assert [name for name in CRITERIA if not isinstance(make_criterion(name), Targeted)] == one_shot
    assert tuple(BACKBONES) == get_args(Backbone)
    assert tuple(FEATURES) == get_args(Feature)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: IRPConfig(criterion="synflow"), "unknown criterion 'synflow'; valid: random, magnitude, snip, grasp"),
        (lambda: IRPConfig(criterion="prospr"), "unknown criterion 'prospr'; valid: random, magnitude, snip, grasp"),
        (lambda: IRPConfig(iterations="3"), "iterations must be a whole number, got '3'"),
        (lambda: IRPConfig(iterations=2.5), "iterations must be a whole number, got 2.5"),
        (lambda: IRPConfig(iterations=None), "iterations must be a whole number, got None"),
        (lambda: IRPConfig(seed=None), "seed must be a whole number, got None"),
        (lambda: IRPConfig(criterion=None), "unknown criterion None; valid: random, magnitude, snip, grasp"),
        (lambda: IRPConfig(iterations=True), "iterations must be a whole number, got True"),
        (lambda: IRPConfig(iterations=0), "iterations must be at least 1, got 0"),
        (lambda: IRPConfig(rate=1.0), "rate must be above 0 and below 1, got 1.0"),
        (lambda: IRPConfig(order_seed=-1), r"order seed must be in 0..4294967295, got -1"),
        (lambda: FitConfig(learning_rate=float("nan")), "learning rate must be positive, got nan"),
        (lambda: FitConfig(label="ranks"), "unknown label 'ranks'; valid: share, min-max, log-density, rank"),
        (lambda: FitConfig(features=("theta", "grad", "flow"), transform="raw"), "raw is for fits to stored triples"),
        (lambda: FitConfig(rounds=3, samples=4096), "samples are for fits to stored triples"),
        (lambda: IRPConfig(rate=0.5), "rate does nothing with the geometric schedule"),
        (lambda: IRPConfig(schedule="constant", final_sparsity=0.9), "final sparsity does nothing with the constant"),
        (lambda: FitConfig(weights=(1.0, -1.0)), "weights must be positive, got 1.0 -1.0"),
        (lambda: PruneConfig(rounds=0), "rounds must be at least 1, got 0"),
    ],
)
def test_values_that_an_option_does_not_take_are_refused(wrong: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        wrong()  # type: ignore[operator]
