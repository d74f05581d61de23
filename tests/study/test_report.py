"""The report of a set of runs: complete, unfinished and damaged ones."""

import json
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import yaml

from autosparse.errors import UserError
from autosparse.page import Document
from autosparse.study import overview, report, summary


def leave(folder: Path, state: str, **details: str) -> None:
    """Write a run that ended early."""
    folder.mkdir()
    config = {"kind": "prune", "network": "lenet-300-100", "dataset": "digits"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, explicit_end=True))
    (folder / "status.json").write_text(json.dumps({"state": state, **details}))


def test_report_without_runs_raises_and_names_the_commands(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no complete runs of irp or prune in .*; autosparse runs status"):
        overview(Document(tmp_path / "report"), [tmp_path])
    assert list(tmp_path.iterdir()) == []


def test_summary_has_no_table_of_networks_without_pruned_runs(irp_run: Path) -> None:
    assert summary([irp_run]) == ""


def test_damaged_result_is_left_out_and_named(irp_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "damaged"
    leave(run, "complete")
    (run / "result.json").write_text("{}")
    document = Document(tmp_path / "report")
    overview(document, [irp_run, run])
    text = document.write().with_name("report.md").read_text()
    assert f"{run}/result.json is damaged; run the same autosparse prune again" in text


def test_table_of_runs_has_states_and_numbers(irp_run: Path, tmp_path: Path) -> None:
    leave(tmp_path / "failed", "failed")
    leave(tmp_path / "interrupted", "interrupted")
    document = Document(tmp_path / "report")
    overview(document, [irp_run, tmp_path])
    text = document.write().with_name("report.md").read_text()
    caption, _, header, _, *rows = text[text.index("## Runs") :].splitlines()[2:]
    assert sorted(caption.split(", ")) == ["1 complete", "1 failed", "1 interrupted"]
    columns = [cell.strip() for cell in header.split("|")[1:-1]]
    runs = [dict(zip(columns, (cell.strip() for cell in row.split("|")[1:-1]), strict=True)) for row in rows[:3]]
    assert [(run["run"], run["state"]) for run in runs[:2]] == [("failed", "failed"), ("interrupted", "interrupted")]
    assert runs[2]["state"] == "complete"
    last = json.loads((irp_run / "history.json").read_text())[-1]
    assert float(runs[2]["last epoch"]) == pytest.approx(100 * last["test"], rel=1e-3)
    assert float(runs[2]["sparsity, %"]) == pytest.approx(100 * (1 - last["density"]), rel=1e-3)
    assert float(runs[2]["cost"]) == last["iteration"] + 1


def test_live_report_without_complete_runs_has_their_states(tmp_path: Path) -> None:
    leave(tmp_path / "killed", "running")
    document = Document(tmp_path / "report")
    overview(document, [tmp_path], live=True)
    page = document.write(live=True).read_text()
    assert '<p class="caption">1 killed</p>' in page
    assert '<body data-live="yes">' in page


def pruned(seeds: int, **means: tuple[float, float]) -> pd.DataFrame:
    """Rows of `results.load` at 90 and 98% with these accuracies, which change a little from seed to seed."""
    rows = [
        {"criterion": name.replace("_", "-"), "sparsity": sparsity, "seed": seed, "test": mean + (seed * shift) % 0.02}
        for shift, (name, tests) in enumerate(means.items())
        for (sparsity, mean), seed in product(zip((0.9, 0.98), tests, strict=True), range(seeds))
    ]
    cost = {"gmp-x2": 2.0, "short-irp": 2.0}
    frame = pd.DataFrame(rows).assign(
        metric="accuracy", better="higher", cost=lambda frame: frame["criterion"].map(cost)
    )
    return frame.fillna({"cost": 1.0})


def test_verdict_names_the_best_of_each_cost_and_those_on_par() -> None:
    verdict, how = report._verdict(
        pruned(5, snip=(0.9, 0.8), random=(0.5, 0.1), grasp=(0.895, 0.5), gmp_x2=(0.9, 0.9), short_irp=(0.8, 0.7))
    )
    first, second = verdict.split("; ")
    assert first.startswith("Best: at cost 1 **grasp** at 90% (on par with snip, p = ")
    assert ", **snip** at 98% (p at most " in first
    assert second.startswith("at cost 2 **gmp-x2** at 90% and 98% (p at most ")
    assert "n = 5 seeds" in how
    assert "6 comparisons" in how


def test_verdict_of_one_seed_has_no_test() -> None:
    verdict, how = report._verdict(pruned(1, snip=(0.9, 0.8), random=(0.5, 0.1)))
    assert verdict == "Best: at cost 1 **snip** at 90% and 98%."
    assert how.endswith("n = 1 seed, too few for a test.")


def test_method_of_fewer_seeds_is_not_the_best() -> None:
    rows = pruned(4, snip=(0.9, 0.8), random=(0.8, 0.1), grasp=(0.95, 0.9))
    verdict, how = report._verdict(rows[(rows["criterion"] != "grasp") | (rows["seed"] == 0)])
    assert verdict.startswith("Best: at cost 1 **snip** at 90% and 98% (p at most ")
    assert "n = 1 to 4 seeds" in how
    caption, _ = report._table(rows[1:].assign(recipe="{}"), pd.DataFrame(), "test", ["snip", "random", "grasp"])
    assert "over seeds 0, 1, 2, 3; some methods lack some of them" in caption


def test_masks_of_several_schedules_are_drawn_at_their_own_sparsities() -> None:
    masks = pd.DataFrame({"criterion": ["irp-snip, n 2", "irp-snip, n 4"], "iteration": 1, "sparsity": [0.9, 0.7]})
    assert report._series(pd.DataFrame(), masks)["sparsity"].tolist() == [0.9, 0.7]


def test_verdict_needs_two_methods_of_one_cost() -> None:
    assert report._verdict(pruned(2, snip=(0.9, 0.8), gmp_x2=(0.5, 0.1))) == ("", "")


def test_best_of_each_column_is_bold() -> None:
    rows = pruned(1, snip=(0.9, 0.8), random=(0.5, 0.9)).assign(recipe="{}")
    caption, table = report._table(rows, pd.DataFrame(), "test", ["random", "snip"])
    assert caption.endswith("bold: the best of its column.")
    assert table.loc["snip", ["90%", "98%"]].tolist() == ["**90.00**", "80.00"]
    assert table.loc["random", ["90%", "98%"]].tolist() == ["50.00", "**90.00**"]
    unknown = rows.assign(better="")
    assert "**" not in report._table(unknown, pd.DataFrame(), "test", ["random", "snip"])[1].to_string()
