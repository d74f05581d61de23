"""Graphs of jobs on a real Slurm."""

import json
import subprocess
import threading
from pathlib import Path

import pytest

from autosparse.cluster import Resources, Stage, launch_graph, slurm
from autosparse.errors import UserError
from tests.cluster.jobs import Note
from tests.cluster.test_graph import graph, words
from tests.slurm.conftest import until

CPU = Resources(partition="cpu", gpus_per_node=0, cpus_per_task=1, wait=True)


def test_a_failed_head_stops_its_tail_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="3 of 6 runs failed"):
        launch_graph(graph(tmp_path, fail="user"), CPU, tmp_path)
    said = capsys.readouterr().err
    assert words(tmp_path) == {"b", "c", "e"}
    assert f"failed: {tmp_path / 'note_a'}: no such word" in said
    assert f"failed: {tmp_path / 'note_d'}: not started, as a failed" in said
    assert f"failed: {tmp_path / 'note_end'}: not started, as d failed" in said
    launch_graph(graph(tmp_path), CPU, tmp_path)
    assert words(tmp_path) == {"a", "b", "c", "d", "e", "end"}
    spans = {path.parent.name[5:]: json.loads(path.read_text()) for path in tmp_path.glob("*/span0")}
    assert spans["d"][0] >= max(spans["a"][1], spans["b"][1])
    assert spans["end"][0] >= max(spans["d"][1], spans["e"][1])


def test_a_tail_waits_for_a_head_that_is_queued_again(tmp_path: Path) -> None:
    head = Note(tmp_path, "a", seconds=4.0)
    tail = Note(tmp_path, "d", reads=("a",))
    stages = [Stage("a", (head,)), Stage("d", (tail,), after=("a",))]
    waiting = threading.Thread(target=launch_graph, args=(stages, CPU, tmp_path), daemon=True)
    waiting.start()
    until((head.folder / "status.json").is_file)
    job_id = json.loads((head.folder / "job.json").read_text())["job"]
    subprocess.run(["scontrol", "requeue", job_id], check=True, timeout=600)
    until(lambda: (slurm.queue() or {}).get(job_id, slurm.State("", "")).state == "PENDING")
    waiting.join(600)
    assert words(tmp_path) == {"a", "d"}
    status = json.loads((head.folder / "status.json").read_text())
    assert (status["state"], status["requeues"]) == ("complete", 1)
