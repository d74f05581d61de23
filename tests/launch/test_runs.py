"""`launch/runs.py`: what runs are doing, from the outside."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import RUN, SMALL_IRP, Capture, Script
from tests.waiting import waiting_irp


def status(script: Script, capsys: Capture, *paths: object) -> tuple[int, str]:
    code = script("runs", "status", *paths)
    return code, capsys.readouterr().out


def row(table: str, name: str = RUN) -> str:
    (found,) = [line for line in table.splitlines() if name in line]
    return " ".join(found.split())


def test_progress_of_run_and_fit_is_recorded(script: Script, irp_run: Path, capsys: Capture, tmp_path: Path) -> None:
    told = json.loads((irp_run / "progress.json").read_text())
    last = json.loads((irp_run / "history.json").read_text())[-1]
    assert told["done"] == told["total"] > 0
    assert [told[key] for key in ("epoch", "epochs", "metric", "value")] == [2, 2, "accuracy", last["test"]]
    fit = ("--epochs", "3", "--samples", "4096", "--resolution", "8", "--name", "a")
    assert script("fit", "--runs", irp_run, *fit, "--output", tmp_path) == 0
    losses = json.loads((tmp_path / "autos" / "a" / "autos.json").read_text())["card"]["losses"]
    told = json.loads((tmp_path / "autos" / "a" / "progress.json").read_text())
    assert [told[key] for key in ("epoch", "epochs", "metric", "value")] == [len(losses)] * 2 + ["loss", losses[-1]]
    _, table = status(script, capsys, tmp_path)
    assert row(table, "complete").startswith(f"a complete {len(losses)} of {len(losses)} loss {losses[-1]:.4g} ")


def test_run_is_watched_cancelled_and_resumed(script: Script, capsys: Capture, tmp_path: Path) -> None:
    process = waiting_irp(30, tmp_path)
    code, table = status(script, capsys, tmp_path)
    assert code == 3
    assert f"{RUN} running" in row(table)
    assert script("runs", "cancel", tmp_path) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'irp' / RUN}\n"
    process.join(timeout=120)
    assert process.exitcode == 130
    code, table = status(script, capsys, tmp_path)
    assert (code, f"{RUN} interrupted" in row(table)) == (4, True)
    assert script("runs", "logs", tmp_path, "--lines", "1") == 0
    assert "stopped at a step, everything saved: SIGTERM" in capsys.readouterr().out
    assert script("runs", "resume", tmp_path) == 0
    capsys.readouterr()
    code, table = status(script, capsys, tmp_path)
    assert code == 0
    assert row(table).startswith(f"{RUN} complete 4 of 4 99.00%")


@pytest.mark.parametrize("name", ["job.json", "status.json", "history.json", "config.yaml"])
def test_damaged_file_concerns_one_run(
    name: str, script: Script, finished: Path, capsys: Capture, tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        shutil.copytree(finished / "irp" / RUN, tmp_path / folder)
    (tmp_path / "a" / name).write_text("")
    code, table = status(script, capsys, tmp_path)
    assert "b  " in table.splitlines()[2]
    assert "complete" in table.splitlines()[2]
    assert "damaged" in table.splitlines()[1] or name == "job.json"
    assert code == (0 if name == "job.json" else 4)
    assert script("report", tmp_path, "--output", tmp_path / "report") == 0
    told = capsys.readouterr().err
    assert (f"left out: {tmp_path / 'a'}/" in told) == (name in ("history.json", "config.yaml"))


def test_runs_behind_a_link_are_found(script: Script, finished: Path, capsys: Capture, tmp_path: Path) -> None:
    shutil.copytree(finished / "irp" / RUN, tmp_path / "other")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / RUN).symlink_to(tmp_path / "other")
    (tmp_path / "other" / "circle").symlink_to(tmp_path)
    code, table = status(script, capsys, tmp_path / "runs")
    assert (code, len(table.splitlines())) == (0, 2)
    assert script("report", tmp_path / "runs", "--output", tmp_path / "report") == 0


def test_missing_history_is_reported_and_made_again(
    script: Script, finished: Path, capsys: Capture, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "runs")
    history = tmp_path / "runs" / "irp" / RUN / "history.json"
    content = history.read_bytes()
    history.unlink()
    assert script("report", tmp_path / "runs", "--output", tmp_path / "report") == 2
    assert f"{RUN}/history.json is not whole; the command of the run makes it again" in capsys.readouterr().err
    assert script("irp", *SMALL_IRP, "--output", tmp_path / "runs") == 0
    assert history.read_bytes() == content
