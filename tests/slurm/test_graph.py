"""Graphs of jobs on a real Slurm."""

import json
import subprocess
import threading
from pathlib import Path

from autosparse.cluster import Resources, Stage, launch_graph, slurm
from tests.cluster.jobs import Note
from tests.cluster.test_graph import words
from tests.slurm.conftest import until

CPU = Resources(partition="cpu", gpus_per_node=0, cpus_per_task=1, wait=True)


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
