"""What tells one run from another: the name of its folder, and its configuration."""

from pathlib import Path

from autosparse.jobs import PruneRun
from autosparse.jobs.setting import Setting


def test_folders_are_named_to_be_read(tmp_path: Path) -> None:
    setting = Setting(network="resnet18", dataset="cifar10")
    run = PruneRun(output=tmp_path, setting=setting, criterion="snip", sparsity=0.985, seed=3)
    assert run.folder == tmp_path / "prune" / "resnet18_cifar10_snip_98.5_s3"


def test_the_configuration_holds_the_recipe_by_its_values() -> None:
    short, long = Setting(), Setting(epochs=60, learning_rate=0.5, precision="bf16")
    assert short.config()["recipe"]["epochs"] == 30
    assert long.config()["recipe"]["learning_rate"] == 0.5
    assert long.config()["recipe"]["precision"] == "bf16"
    assert Setting("resnet18", "cifar10", recipe="paper").validation_share == 0.0
    assert short.config()["validation"] == 0.1


def test_a_setting_without_channels_last_is_that_of_runs_from_before_there_was_a_choice() -> None:
    assert "channels_last" not in Setting().config()["recipe"]
    assert Setting(channels_last=True).config()["recipe"]["channels_last"]
    assert Setting(channels_last=True).make_recipe().channels_last
