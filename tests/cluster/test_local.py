import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from autosparse.cluster import Resources, Stage, launch, launch_graph
from autosparse.cluster.lease import holder_of
from autosparse.errors import UserError
from tests.cluster.jobs import Note
from tests.conftest import ROOT

COMMAND = """
import sys
from dataclasses import make_dataclass
from pathlib import Path
sys.path[:0] = {path!r}
from autosparse.cluster import Resources, launch
from autosparse.command import run
from tests.cluster.jobs import Note
output = Path({output!r})
jobs = [Note(output, *job) for job in {jobs!r}]
run(make_dataclass("Nothing", []), lambda a: launch(jobs, Resources(cluster="local"), output, "notes"), [])
"""


def working(output: Path, *jobs: Sequence[object]) -> subprocess.Popen[str]:
    """Return a command all of whose jobs, given by their fields, work by now."""
    code = COMMAND.format(path=[str(ROOT)], output=str(output), jobs=jobs)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not all(holder_of(Note(output, str(word)).folder) for word, *_ in jobs):
        assert process.poll() is None
        time.sleep(0.01)
    return process


def test_jobs_keep_to_parallelism_and_visible_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,7")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    jobs = [Note(tmp_path, word, seconds=0.5) for word in "abc"]
    launch(jobs, Resources(cluster="local", array_parallelism=2), tmp_path, "notes")
    spans = [json.loads((job.folder / "span0").read_text()) for job in jobs]
    assert max(sum(start <= moment < end for start, end, *_ in spans) for moment, *_ in spans) <= 2
    assert [visible for *_, visible in spans[:2]] == ["5", "3"]


@pytest.mark.parametrize(
    ("visible", "gpus", "message"),
    [
        ("5,3", 3, "gpus-per-node 3: this machine has 2"),
        ("GPU-8932f937", 1, "takes CUDA_VISIBLE_DEVICES as numbers, such as 0,1, got GPU-8932f937"),
    ],
)
def test_too_many_gpus_are_refused(
    visible: str, gpus: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match=message):
        launch([Note(tmp_path, "b")], Resources(cluster="local", gpus_per_node=gpus), tmp_path, "notes")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stops_jobs_at_a_step(tmp_path: Path) -> None:
    process = working(tmp_path, ("a", "asked"), ("b", "asked"))
    # Unlike a terminal, this leaves it to the command to signal the jobs.
    for pid in (process.pid, *Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()):
        os.kill(int(pid), signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert error.endswith("\nerror: interrupted; the same command resumes\n")
    for word in "ab":
        assert json.loads((tmp_path / f"note_{word}" / "status.json").read_text())["state"] == "interrupted"
        assert holder_of(tmp_path / f"note_{word}") is None


def test_next_command_waits_for_jobs_of_a_killed_one(tmp_path: Path) -> None:
    with working(tmp_path, ("a", "", 6.0)) as process:
        process.kill()
        process.wait()
        graph = [Stage("a", (Note(tmp_path, "a"),)), Stage("d", (Note(tmp_path, "d", reads=("a",)),), after=("a",))]
        launch_graph(graph, Resources(cluster="local"), tmp_path)
    assert (tmp_path / "note_d" / "word").is_file()
    start, end, *_ = json.loads((tmp_path / "note_a" / "span0").read_text())
    assert end - start >= 6.0  # The job of the first command did it.
