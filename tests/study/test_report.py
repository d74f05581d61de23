"""The report of a set of runs: complete, unfinished and damaged ones."""

import json
from pathlib import Path

import pytest
import yaml

from autosparse.errors import UserError
from autosparse.page import Document
from autosparse.study import overview, summary


def leave(folder: Path, state: str, **details: str) -> None:
    """Write a run that ended early."""
    folder.mkdir()
    config = {"kind": "prune", "network": "lenet-300-100", "dataset": "digits"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, explicit_end=True))
    (folder / "status.json").write_text(json.dumps({"state": state, **details}))


def test_report_without_runs_raises_and_names_the_commands(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no complete runs in .*; autosparse runs status"):
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
