import json
import os
import re
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
from tests.conftest import ROOT, Capture, Patch

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


def started(output: Path, *jobs: Sequence[object]) -> subprocess.Popen[str]:
    """Return a command that has started, whose jobs are given by their fields."""
    code = COMMAND.format(path=[str(ROOT)], output=str(output), jobs=jobs)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def working(output: Path, *jobs: Sequence[object]) -> subprocess.Popen[str]:
    """Return a command all of whose jobs, given by their fields, work by now."""
    process = started(output, *jobs)
    while not all(holder_of(Note(output, str(word)).folder) for word, *_ in jobs):
        assert process.poll() is None
        time.sleep(0.01)
    return process


def test_runs_keep_to_their_number_at_once_and_visible_gpus(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,7")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    jobs = [Note(tmp_path, word, seconds=0.5) for word in "abc"]
    launch(jobs, Resources(cluster="local", runs_at_once=2), tmp_path, "notes")
    spans = [json.loads((job.folder / "span0").read_text()) for job in jobs]
    assert max(sum(start <= moment < end for start, end, *_ in spans) for moment, *_ in spans) <= 2
    assert [visible for *_, visible in spans[:2]] == ["5", "3"]


def test_runs_per_gpu_share_each_gpu(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937,GPU-b")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    resources = Resources(cluster="local", runs_per_gpu=2, gpus_per_node=1)
    jobs = [Note(tmp_path, word, seconds=1.0) for word in "abcd"]
    launch(jobs, resources, tmp_path, "notes")
    spans = [json.loads((job.folder / "span0").read_text()) for job in jobs]
    assert [visible for *_, visible in spans] == ["GPU-8932f937", "GPU-b"] * 2
    assert max(start for start, *_ in spans) < min(end for _, end, *_ in spans)


def test_more_gpus_than_visible_raises(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match="gpus-per-node 3: this machine has 2"):
        launch([Note(tmp_path, "b")], Resources(cluster="local", gpus_per_node=3), tmp_path, "notes")


@pytest.mark.parametrize(
    ("end", "message"), [("killed", "it was killed"), ("_exit", "it was killed"), ("memory", "MemoryError")]
)
def test_run_that_ends_early_leaves_its_neighbours_alone(
    end: str, message: str, tmp_path: Path, capsys: Capture
) -> None:
    jobs = [Note(tmp_path, "a", seconds=0.5), Note(tmp_path, "b", fail=end), Note(tmp_path, "c")]
    resources = Resources(cluster="local", runs_at_once=2)
    with pytest.raises(UserError, match="1 of 3 runs failed"):
        launch(jobs, resources, tmp_path, "notes")
    assert [job.is_complete() for job in jobs] == [True, False, True]
    said = capsys.readouterr().err
    assert re.search(rf"failed: {jobs[1].folder}: .*{message}", said)
    launch([jobs[0], Note(tmp_path, "b"), jobs[2]], resources, tmp_path, "notes")
    assert "3 runs, 2 complete, 1 to run" in capsys.readouterr().err


def test_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    code = COMMAND.format(path=[str(ROOT)], output=str(tmp_path), jobs=[("a",), ("b",)])
    script.write_text(f"open({str(tmp_path / 'starts')!r}, 'a').write('.')\n{code}")
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    assert (tmp_path / "starts").read_text() == "."
    assert Note(tmp_path, "b").is_complete()


def test_environment_of_a_run_is_that_of_its_command(tmp_path: Path, monkeypatch: Patch) -> None:
    launch([Note(tmp_path, "a")], Resources(cluster="local"), tmp_path, "notes")  # The server runs from here on.
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    launch([Note(tmp_path, "b")], Resources(cluster="local", cpus_per_task=1), tmp_path, "notes")
    assert "on cpu with 3 threads" in (tmp_path / "note_b" / "logs" / "output.log").read_text()


def test_ctrl_c_stops_jobs_at_a_step(tmp_path: Path) -> None:
    process = working(tmp_path, ("a", "asked"), ("b", "asked"))
    os.kill(process.pid, signal.SIGINT)  # Unlike a terminal, this leaves it to the command to signal the runs.
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert error.endswith("\nerror: interrupted; the same command resumes\n")
    for word in "ab":
        assert json.loads((tmp_path / f"note_{word}" / "status.json").read_text())["state"] == "interrupted"
        assert holder_of(tmp_path / f"note_{word}") is None


def test_ctrl_c_while_the_server_imports_ends_in_one_line(tmp_path: Path) -> None:
    process = started(tmp_path, ("a", "asked"))
    assert process.stderr
    while "1 to run" not in process.stderr.readline():
        pass
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert error.endswith("error: interrupted; the same command resumes\n")


def test_second_ctrl_c_ends_runs_at_once(tmp_path: Path) -> None:
    process = working(tmp_path, ("a", "deaf"))
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert holder_of(tmp_path / "note_a") is None


def test_next_command_waits_for_jobs_of_a_killed_one(tmp_path: Path) -> None:
    with working(tmp_path, ("a", "", 6.0)) as process:
        process.kill()
        process.wait()
        graph = [Stage("a", (Note(tmp_path, "a"),)), Stage("d", (Note(tmp_path, "d", reads=("a",)),), after=("a",))]
        launch_graph(graph, Resources(cluster="local"), tmp_path)
    assert (tmp_path / "note_d" / "word").is_file()
    start, end, *_ = json.loads((tmp_path / "note_a" / "span0").read_text())
    assert end - start >= 6.0  # The job of the first command did it.
