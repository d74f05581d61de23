"""`status --live`: a page in a terminal, tables in a log."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from autosparse.cluster import lease, status
from tests.commands import Commands
from tests.conftest import ROOT, RUN, Capture, Patch, Script
from tests.launch.test_watching import leave, submitted


def row(state: str, name: str = RUN, **cells: str) -> status.Row:
    return dict.fromkeys((*status.COLUMNS, "why"), "") | {"run": name, "state": state} | cells


def drawn(rows: list[status.Row], width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(status.page(rows, width, height))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("width", "height"), [(24, 6), (40, 24), (80, 24), (200, 6)])
def test_page_fits_into_any_terminal(width: int, height: int) -> None:
    cells = {"job": "4242_17", "epoch": "3 of 160", "done": "42%", "left": "1:02:03", "metric": "accuracy 91.00%"}
    rows = [row("running", f"{RUN}{k}", **cells, node=f"gpu{k}", iteration="3 of 20") for k in range(3)]
    rows += [row("pending (Priority)", f"{RUN}{k}") for k in range(3, 60)]
    lines = drawn(rows, width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("60 in all: 3 running")
    assert lines[1].split()[:2] == ["run", "state"]
    assert re.search(r"s00 +running", lines[2])  # the name keeps its end
    assert lines[-1].startswith(f"{60 - (height - 3)} more: ")
    assert ("1:02:03" in lines[2]) == (width >= 80)
    assert ("gpu0" in lines[2]) == (width == 200)


def test_page_of_80_columns_has_the_counts_of_all_states_and_whole_words() -> None:
    states = ("running", "pending (Priority)", "waiting in its job", "held (JobHeldUser)", "complete", "not started")
    lines = drawn([row(state, f"{RUN}{k}", metric="accuracy 91.00%") for k, state in enumerate(states)], 80, 24)
    assert max(map(len, lines)) <= 80
    above = " ".join(line.strip() for line in lines[:2])
    assert all(f"1 {state.partition(' (')[0]}" in above for state in states)
    assert not [line for line in lines if re.search(r"[a-z]…", line[30:])]


def test_silent_slurm_is_named_on_the_page() -> None:
    assert drawn([row("unknown")], 80, 24)[-1].startswith("Slurm does not answer (squeue)")


def test_new_runs_are_found_and_deleted_ones_forgotten(commands: Commands, tmp_path: Path) -> None:
    leave(tmp_path / "a", job=submitted("1"), status={"state": "complete", "job": "1"})
    assert [each["run"] for each in status.current([tmp_path])] == ["a"]
    leave(tmp_path / "b", job=submitted("2"))
    assert [each["run"] for each in status.current([tmp_path])] == ["b", "a"]
    assert len(commands.calls("squeue")) == 2
    for path in tmp_path.rglob("*.json"):
        path.unlink()
    assert status.current([tmp_path]) == []


def test_log_gets_a_table_when_a_row_has_changed(
    script: Script, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    steps: dict[str, Any] = {"done": 1, "total": 4, "seconds_left": 9.0}
    told: dict[str, Any] = {"epoch": 1, "epochs": 4, "metric": "loss", "value": 0.25}
    changes = iter(
        [
            lambda: leave(tmp_path / "a", progress=steps | {"done": 2}),
            lambda: leave(tmp_path / "a", progress=steps | {"done": 3} | told),
            lambda: leave(tmp_path / "a", status={"state": "failed"}),
        ]
    )
    monkeypatch.setattr(
        status, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: next(changes)())
    )
    monkeypatch.setattr(lease, "holder_of", lambda folder: {"host": "here"})
    leave(tmp_path / "a", config={"kind": "autos"}, status={"state": "running"}, progress=steps)
    assert script("runs", "--live", tmp_path) == 4  # as `runs status --live` is
    shown = capsys.readouterr().out
    assert "\033" not in shown
    first, second, third = shown.strip().split("\n\n")
    assert first.splitlines()[1].split() == ["a", "running", "25%", "0:00:09"]
    assert second.splitlines()[1].split() == ["a", "running", "1", "of", "4", "75%", "0:00:09", "loss", "0.25"]
    assert third.splitlines()[1].split() == ["a", "failed", "1", "of", "4", "loss", "0.25"]


def test_page_in_a_terminal_ends_with_ctrl_c(tmp_path: Path) -> None:
    run = leave(tmp_path / "a", job=submitted(None), status={"state": "running"})
    host, started = os.uname().nodename, lease.start_of(os.getpid())
    holder = {"host": host, "pid": os.getpid(), "started": started, "job": None, "folder": str(run)}
    (run / f"{lease.LEASE}1").write_text(json.dumps(holder))
    above, below = pty.openpty()
    command = [sys.executable, ROOT / "launch" / "runs.py", "status", "--live", tmp_path]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "60", "LINES": "10"}
    process = subprocess.Popen(command, stdout=below, stderr=below, env=environment)
    os.close(below)
    shown = b""
    while b"1 running" not in shown:
        shown += os.read(above, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while more := os.read(above, 4096):
            shown += more
    except OSError:  # the other end is closed
        pass
    os.close(above)
    assert process.wait(timeout=60) == 3
    assert shown.startswith(b"\x1b[?1049h")
    _, left, after = shown.rpartition(b"\x1b[?1049l")
    assert left
    assert b"Traceback" not in after
    assert b"1 in all: 1 running" in after
