"""Results gathered from the folders of runs."""

import json
import shutil
from pathlib import Path

import yaml

from autosparse.page import Document
from autosparse.study import overview, results


def edited(run: Path, copy: Path, **changes: object) -> Path:
    """A copy of a run whose configuration says something else."""
    shutil.copytree(run, copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config |= changes
    (copy / "config.yaml").write_text(yaml.safe_dump(config, explicit_end=True))
    return copy


def test_runs_with_different_options_have_different_criteria(irp_run: Path, tmp_path: Path) -> None:
    other = edited(irp_run, tmp_path / "other", rewind_epoch=1, seed=7, order_seed=9)
    found = results.load_irp(irp_run, other).groupby("folder")["criterion"].unique().map(list).to_dict()
    assert found == {str(irp_run): ["irp-snip, rewind_epoch=0"], str(other): ["irp-snip, rewind_epoch=1"]}


def test_batches_that_a_criterion_does_not_read_are_not_named(irp_run: Path, tmp_path: Path) -> None:
    runs = [edited(irp_run, tmp_path / f"{n}", criterion="magnitude", grad_batches=n, seed=n) for n in (1, 2)]
    assert set(results.load_irp(*runs)["criterion"]) == {"irp-magnitude"}


def test_run_without_an_option_of_later_versions_has_its_default(irp_run: Path, tmp_path: Path) -> None:
    other = edited(irp_run, tmp_path / "other", seed=7, order_seed=9)
    config = yaml.safe_load((other / "config.yaml").read_text())
    del config["prune_first"], config["rewind"]
    (other / "config.yaml").write_text(yaml.safe_dump(config, explicit_end=True))
    assert set(results.load_irp(irp_run, other)["criterion"]) == {"irp-snip"}


def test_copy_of_a_run_is_left_out_and_named(irp_run: Path, tmp_path: Path) -> None:
    copy = edited(irp_run, tmp_path / "copy")
    told = list[str]()
    found = results.load_irp(irp_run, copy, damaged=told)
    assert set(found["criterion"]) == {"irp-snip"}
    assert len(found) == len(results.load_irp(irp_run))
    first, second = sorted((str(irp_run), str(copy)))
    assert told == [f"{second} is a copy of the run in {first}"]


def test_rows_have_the_numbers_of_the_run(irp_run: Path) -> None:
    history, rows = json.loads((irp_run / "history.json").read_text()), results.load_irp(irp_run)
    assert rows[["iteration", "density", "test"]].to_dict("records") == [
        {key: mask[key] for key in ("iteration", "density", "test")} for mask in history
    ]
    assert rows["sparsity"].tolist() == [1 - mask["density"] for mask in history]


def test_runs_with_different_recipes_have_different_sections(irp_run: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((irp_run / "config.yaml").read_text())["recipe"]
    edited(irp_run, tmp_path / "other", recipe=recipe | {"batch_size": 7}, seed=7)
    document = Document(tmp_path / "report")
    overview(document, [irp_run, tmp_path / "other"])
    document.write()
    assert ", batch_size=" in (tmp_path / "report" / "report.md").read_text()


def test_run_without_configuration_is_damaged(irp_run: Path, tmp_path: Path) -> None:
    (edited(irp_run, tmp_path / "lost") / "config.yaml").unlink()
    assert results.find([tmp_path], None) == [(tmp_path / "lost").resolve()]
