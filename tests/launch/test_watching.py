"""`launch/runs.py` beside a queue that only answers."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import Commands
from tests.conftest import ROOT, Capture, Patch, Script


def leave(folder: Path, **files: Any) -> Path:
    """Leave a run's records."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if name == "config":
            (folder / "config.yaml").write_text(yaml.safe_dump(content, explicit_end=True))
        else:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def submitted(job_id: str | None, *command: str, where: Path = ROOT) -> dict[str, Any]:
    return {"command": ["launch/irp.py", *command], "folder": str(where), "job": job_id, "log": "/slurms/log"}


def table(script: Script, capsys: Capture, folder: Path) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code, and each run's cells by column; cells lie two blanks apart."""
    code = script("runs", "status", folder)
    head, *rows = capsys.readouterr().out.splitlines()
    starts = [head.index(name) for name in head.split()]
    cells = [[row[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for row in rows]
    return code, {row[0]: dict(zip(head.split(), row, strict=True)) for row in cells}


def test_pending_and_requeued_runs_differ(script: Script, commands: Commands, tmp_path: Path, capsys: Capture) -> None:
    commands.answer(
        "squeue", "printf '7_%s|%s|%s\\n' 0 PENDING Priority 1 PENDING Priority 2 PENDING BeginTime 3 RUNNING None"
    )
    leave(tmp_path / "new", job=submitted("7_0"))
    leave(tmp_path / "failed-and-submitted-again", job=submitted("7_1"), status={"state": "failed", "job": "6_1"})
    leave(tmp_path / "again", job=submitted("7_2"), status={"state": "interrupted", "job": "7_2", "requeues": 2})
    leave(tmp_path / "starting", job=submitted("7_3"), status={"state": "interrupted", "job": "7_3"})
    leave(tmp_path / "gone", job=submitted("7_4"), status={"state": "running", "job": "7_4"})
    code, rows = table(script, capsys, tmp_path)
    assert code == 3
    assert {name: row["state"] for name, row in rows.items()} == {
        "new": "pending (Priority)",
        "failed-and-submitted-again": "pending (Priority)",
        "again": "requeued",
        "starting": "running",
        "gone": "killed",
    }
    assert (rows["again"]["requeues"], rows["again"]["job"]) == ("2", "7_2")
    assert len(commands.calls("squeue")) == 1


def test_job_ended_before_its_run_started_has_failed(
    script: Script, commands: Commands, tmp_path: Path, capsys: Capture
) -> None:
    leave(tmp_path / "gone", job=submitted("7_0"))
    leave(tmp_path / "planned", job=submitted(None))
    assert script("runs", "status", tmp_path) == 4
    said = capsys.readouterr()
    assert [line.split(maxsplit=1)[1] for line in said.out.splitlines()[1:]] == ["failed       7_0", "not started"]
    assert said.err == "failed: gone: Slurm ended job 7_0 before the run started; log: /slurms/log\n"


def test_row_of_a_running_run(script: Script, commands: Commands, tmp_path: Path, capsys: Capture) -> None:
    commands.answer("squeue", "echo '7_3|RUNNING|None'")
    history = [{"iteration": i, "density": 0.8**i, "metric": "accuracy", "test": 0.9} for i in range(3)]
    status = {"state": "running", "job": "7_3", "node": "gpu7", "requeues": 1}
    steps = {"done": 30, "total": 120, "seconds_left": 3723.2}
    leave(tmp_path / "a", job=submitted("7_3"), status=status, config={"iterations": 20}, progress=steps)
    (tmp_path / "a" / "history.json").write_text(json.dumps(history))
    _, rows = table(script, capsys, tmp_path)
    assert rows["a"] == {
        "run": "a",
        "state": "running",
        "job": "7_3",
        "iteration": "2 of 20",
        "done": "25%",
        "left": "1:02:03",
        "sparsity": "36.00%",
        "metric": "accuracy 90.00%",
        "requeues": "1",
        "node": "gpu7",
    }
    (tmp_path / "a" / "history.json").unlink()
    assert table(script, capsys, tmp_path)[1]["a"]["iteration"] == "0 of 20"
    leave(tmp_path / "a", config={"sparsity": 0.9})
    assert table(script, capsys, tmp_path)[1]["a"]["sparsity"] == "90.00%"


def test_silent_queue_is_not_an_empty_one(script: Script, commands: Commands, tmp_path: Path, capsys: Capture) -> None:
    commands.answer("squeue", "exit 1")
    leave(tmp_path / "a", job=submitted("7"), status={"state": "running", "job": "7"})
    leave(tmp_path / "b", job=submitted("8"), status={"state": "complete", "job": "8"})
    assert script("runs", "status", tmp_path) == 3
    said = capsys.readouterr()
    assert "unknown" in said.out
    assert "Slurm does not answer (squeue): the states of its jobs are not known" in said.err
    assert script("runs", "cancel", tmp_path) == 2
    assert "a: Slurm does not answer (squeue), and job 7 may be in its queue; try again" in capsys.readouterr().err
    assert commands.calls("scancel") == []
    assert script("runs", "resume", tmp_path) == 2
    assert "not known; try again" in capsys.readouterr().err
    assert script("runs", "cancel", tmp_path / "b") == 0  # what is complete waits for nothing


def test_resume_runs_the_command_without_after(script: Script, tmp_path: Path, capfd: Capture) -> None:
    program = tmp_path / "it's here.py"
    program.write_text("import sys; print(sys.argv[1:])")
    given = ["--after", "12", "13_1", "--output", "a b", "--after=7", "--wait"]
    leave(tmp_path / "run", job={**submitted(None, where=tmp_path), "command": [str(program), *given]})
    assert script("runs", "resume", tmp_path) == 0
    said = capfd.readouterr()
    assert said.out == "['--output', 'a b', '--wait']\n"
    assert said.err == f"cd {tmp_path} && python '{tmp_path}/it'\"'\"'s here.py' --output 'a b' --wait\n"


def test_no_action_means_status(script: Script, tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    leave(tmp_path / "runs" / "run", job=submitted(None))
    code = script("runs")
    told = capsys.readouterr().out
    assert "not started" in told
    assert (script("runs", "status"), capsys.readouterr().out) == (code, told)
    assert (script("runs", "runs/run", "--live"), capsys.readouterr().out.strip()) == (code, told.strip())


@pytest.mark.parametrize(("lines", "shown"), [("0", []), ("2", ["b", "c"]), ("9", ["a", "b", "c"])])
def test_logs_prints_the_last_lines(
    lines: str, shown: list[str], script: Script, tmp_path: Path, capsys: Capture
) -> None:
    leave(tmp_path, job=submitted(None))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank0.log").write_text("a\nb\nc\n")
    assert script("runs", "logs", tmp_path, "--lines", lines) == 0
    assert capsys.readouterr().out.splitlines()[1:] == shown


def test_status_of_500_runs_asks_slurm_once_without_pytorch(commands: Commands, tmp_path: Path) -> None:
    commands.answer("squeue", "seq -f '7_%.0f|PENDING|Priority' 0 499")
    for k in range(500):
        leave(tmp_path / "irp" / f"run_s{k}", job=submitted(f"7_{k}"))
    command = [sys.executable, "-X", "importtime", ROOT / "launch" / "runs.py", "status", tmp_path]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - start < 10  # 2 on a machine that has nothing else to do: benchmarks/cluster.py
    assert done.stdout.count("pending (Priority)") == 500
    assert len(commands.calls_file.read_text().splitlines()) == 1
    assert not [line for line in done.stderr.splitlines() if line.split()[-1] in ("torch", "pandas", "accelerate")]
