import json
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from autosparse.errors import UserError
from autosparse.jobs import PruneRun
from autosparse.jobs.setting import Setting
from autosparse.study import figures, page, tables

RECIPE = json.dumps({"epochs": 3, "learning_rate": 0.1})


def rows() -> pd.DataFrame:
    found = []
    for criterion, base in (("snip", 0.90), ("random", 0.80)):
        for sparsity in (0.9, 0.99):
            for seed in (0, 1):
                accuracy = base - 0.1 * (sparsity > 0.9) + 0.02 * seed
                found.append(
                    {"criterion": criterion, "sparsity": sparsity, "seed": seed, "accuracy": accuracy, "recipe": RECIPE}
                )
    return pd.DataFrame(found).assign(folder="runs/a")


def irp() -> pd.DataFrame:
    densities, accuracies = (1.0, 0.102, 0.5, 0.01), (0.95, 0.94, 0.93, 0.92)
    return pd.DataFrame(
        {
            "criterion": "irp-snip",
            "iteration": range(4),
            "density": densities,
            "accuracy": accuracies,
            "recipe": RECIPE,
            "folder": "runs/irp",
        }
    )


def test_the_table_of_accuracies() -> None:
    table = tables.accuracy_table(rows(), irp())
    assert list(table.index) == ["irp-snip (iterative, the ceiling)", "snip", "random"]
    assert list(table.columns) == ["90%", "99%"]
    assert table.loc["snip", "90%"] == "91.00 ± 1.41"
    assert table.loc["random", "99%"] == "71.00 ± 1.41"
    assert list(table.loc["irp-snip (iterative, the ceiling)"]) == ["94.00", "92.00"]
    assert tables.dense_accuracy(irp()) == "95.00"


def test_a_mask_of_irp_far_from_a_sparsity_does_not_stand_for_it() -> None:
    assert tables.nearest(irp(), 0.95).empty
    assert tables.nearest(irp(), 0.9)["iteration"].tolist() == [1]


def test_iterative_pruning_is_interpolated_between_its_masks() -> None:
    masks = irp()
    assert tables.interpolated(masks, 0.5, "accuracy").tolist() == pytest.approx([0.93])
    between = 1 - (0.5 * 0.102) ** 0.5  # half way, in the logarithm
    assert tables.interpolated(masks, between, "accuracy").tolist() == pytest.approx([0.935])
    assert tables.interpolated(masks, 0.999, "accuracy").isna().all()


def test_figures_whose_names_differ_after_a_dot_are_two(tmp_path: Path) -> None:
    for name in ("rate-0.01", "rate-0.001"):
        assert figures.save(Figure(), tmp_path / name).name == f"{name}.png"
    assert {path.name for path in tmp_path.iterdir()} == {
        f"rate-{rate}.{kind}" for rate in ("0.01", "0.001") for kind in ("svg", "png")
    }


def test_markdown() -> None:
    text = tables.markdown(tables.accuracy_table(rows(), irp()))
    assert text.splitlines()[:2] == ["| criterion | 90% | 99% |", "| --- | ---: | ---: |"]
    assert "| snip | 91.00 ± 1.41 | 81.00 ± 1.41 |" in text


def test_results_of_different_recipes_are_not_compared() -> None:
    other = irp().assign(recipe=json.dumps({"epochs": 3, "learning_rate": 0.2}))
    with pytest.raises(UserError, match=r"learning_rate is 0\.1 in runs/a and 0\.2 in runs/irp"):
        tables.accuracy_table(rows(), other)
    newer = irp().assign(recipe=json.dumps({**json.loads(RECIPE), "compile": True}))
    with pytest.raises(UserError, match=r"compile is None in runs/a and True in runs/irp"):
        tables.accuracy_table(rows(), newer)


def test_a_report_of_nothing_names_the_commands(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing to report in .*; run launch/irp\.py and launch/prune\.py first"):
        page.write([tmp_path], tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_folders_are_named_to_be_read(tmp_path: Path) -> None:
    run = PruneRun(tmp_path, Setting("resnet18", "cifar10"), "snip", 0.985, 3)
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
