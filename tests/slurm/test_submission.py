"""Submission to a real Slurm: what is asked for is what runs, and what cannot run is said."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosparse.cluster import Resources, launch, slurm
from autosparse.cluster.submit import submit_array
from autosparse.config import IRPConfig
from autosparse.errors import UserError
from autosparse.jobs.base import TrainingOptions
from autosparse.store import TripleStore
from autosparse.tasks import Images
from tests.cluster.jobs import Note
from tests.conftest import ROOT, Capture, Patch, Script
from tests.slurm.conftest import MAX_ARRAY, until
from tests.slurm.work import OneFails, Stamp, WorldRun, stamps

CPU = {"partition": "cpu", "gpus_per_node": 0, "cpus_per_task": 1}


def idle() -> bool:
    return slurm.queue() == {}


def test_an_array_runs_as_many_at_once_as_asked_for_also_when_it_is_cut(tmp_path: Path) -> None:
    tasks = [Stamp(tmp_path / f"stamp{k}", seconds=0.3) for k in range(MAX_ARRAY + 1)]
    resources = Resources(partition="gpu", cpus_per_task=3, array_parallelism=2)
    submitted = submit_array(tasks, resources, "stamps", tmp_path / "logs")
    array = submitted[0].job_id.split("_")[0]
    assert [each.job_id for each in submitted[:-1]] == [f"{array}_{k}" for k in range(MAX_ARRAY)]
    assert submitted[-1].job_id.isdecimal()
    until(idle)
    seen = [stamps(task.path) for task in tasks]
    assert [len(each) for each in seen] == [1] * len(tasks)
    flat = [each for (each,) in seen]
    assert max(sum(a["start"] <= b["start"] < a["end"] for a in flat) for b in flat) <= 2
    assert {each["SLURM_CPUS_PER_TASK"] for each in flat} == {"3"}  # which srun does not inherit
    assert {each["CUDA_VISIBLE_DEVICES"] for each in flat} <= {"0", "1"}


def test_quotes_in_every_path_and_a_job_that_fails_beside_one_that_does_not(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    output = tmp_path / 'it\'s a "b" $HOME; $(touch pwned) `touch pwned` & c'
    good, bad = Note(output, "a"), Note(output, "b", fail="user")
    resources = {**CPU, "setup": ("export GREETING='it is \"here\"'",), "slurm": ("comment=it's here",)}
    launch([good, bad], Resources(**resources, dry_run=True), output, "notes")
    shown = capsys.readouterr().out.split("\n", 2)[2]
    with pytest.raises(UserError, match="1 of 2 runs failed"):
        launch([good, bad], Resources(**resources, wait=True), output, "notes")
    said = capsys.readouterr().err
    assert re.search(rf"failed: {re.escape(str(bad.folder))}: no such word; log: .*; Slurm: FAILED", said)
    job_id = json.loads((good.folder / "job.json").read_text())["job"]
    command = ["scontrol", "write", "batch_script", job_id, "-"]
    held = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    assert held.strip() == (good.folder / "batch.sh").read_text().strip() == shown.strip()
    assert json.loads((good.folder / "environment.json").read_text())["jobs"] == [job_id]
    assert json.loads((good.folder / "status.json").read_text())["state"] == "complete"
    (log,) = (output / "submitted" / "notes_0" / job_id).glob("*_0_log.out")
    assert "Job completed successfully" in log.read_text()
    assert list(tmp_path.iterdir()) == [output]  # no shell has run what the name says


def test_a_process_that_fails_does_not_leave_the_others_waiting(tmp_path: Path) -> None:
    resources = Resources(partition="cpu", tasks_per_node=2, cpus_per_task=1)
    (job,) = submit_array([OneFails(tmp_path)], resources, "one-fails", tmp_path / "logs")
    until(idle)
    assert (tmp_path / "waited0").exists()
    assert slurm.last_states()[job.job_id].state == "FAILED"


def test_two_nodes_of_two_processes_are_one_world_and_write_one_store(irp_run: Path, tmp_path: Path) -> None:
    run = WorldRun(
        output=tmp_path, setting=TrainingOptions(task=Images(source="digits"), epochs=1), config=IRPConfig(iterations=2)
    )
    launch([run], Resources(partition="gpu", nodes=2, gpus_per_node=2, cpus_per_task=1, wait=True), tmp_path, "irp")
    told = [json.loads((run.folder / "logs" / f"told{rank}.json").read_text()) for rank in range(4)]
    # rank, of how many, rank on the node, number and name of the node, and all of its GPUs
    assert told == [[k, 4, k % 2, str(k // 2), f"gpu{k // 2 + 1}", "0,1"] for k in range(4)]
    assert {path.name for path in (run.folder / "logs").glob("*.log")} == {f"rank{k}.log" for k in range(4)}
    store, alone = TripleStore.open(run.folder), TripleStore.open(irp_run)
    assert store.problems() == []
    assert np.array_equal(store.theta(), alone.theta())
    np.testing.assert_allclose(store.grad(), alone.grad(), rtol=1e-4, atol=1e-7)


def test_a_task_of_a_users_file_is_found_on_the_nodes(tmp_path: Path) -> None:
    """By a relative path, with the file's folder not on the path of Python there."""
    (tmp_path / "mine.py").write_text((ROOT / "tests" / "tasks" / "own.py").read_text())
    short = ["--iterations", "1", "--final-sparsity", "0.5", "--epochs", "1", "--workers", "1", "--output", "runs"]
    command = [sys.executable, ROOT / "launch" / "irp.py", "--task", "mine.py:Own", "--partition", "gpu", *short]
    command += ["--tasks-per-node", "2", "--cpus-per-task", "1", "--wait"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / done.stdout.strip()
    assert TripleStore.open(folder).problems() == []
    assert (folder / "mine.py").read_text() == (tmp_path / "mine.py").read_text()


def test_jobs_wait_for_others_and_are_cancelled_if_those_fail(tmp_path: Path, capsys: Capture) -> None:
    def stamping(name: str, after: tuple[str, ...] = (), **how: Any) -> str:
        stamp = Stamp(tmp_path / name, **how)
        (job,) = submit_array([stamp], Resources(**CPU, after=after), name, tmp_path / f"{name}-logs")
        return job.job_id

    good, bad = stamping("good", seconds=1.0, thread=True), stamping("bad", fail=True)
    stamping("tail", after=(good,))
    job = Note(tmp_path, "a")
    with pytest.raises(UserError, match="1 of 1 run failed"):
        launch([job], Resources(**CPU, after=(good, bad), wait=True), tmp_path, "notes")
    assert re.search(rf"failed: {job.folder}: it was not started; .*Slurm: CANCELLED", capsys.readouterr().err)
    until(idle)
    assert stamps(tmp_path / "tail")[0]["start"] >= stamps(tmp_path / "good")[0]["end"]


def test_submitted_twice_at_once_it_is_one_run_and_both_commands_say_so(tmp_path: Path, monkeypatch: Patch) -> None:
    job = Note(tmp_path, "a", seconds=4)
    launch([job], Resources(**CPU), tmp_path, "notes")
    with monkeypatch.context() as patch:
        patch.setattr(slurm, "queue", dict)  # as the second command sees it, if the first has not submitted yet
        launch([job], Resources(**CPU), tmp_path, "notes")
    queue = slurm.queue()
    assert queue is not None
    assert len(queue) == 2
    until(lambda: len(slurm.queue() or {}) == 1)  # the other has found the run taken
    assert not job.is_complete()
    (refused,) = [path for path in tmp_path.glob("submitted/*/*/*.err") if "works on this run" in path.read_text()]
    assert refused.parent.name in queue
    launch([job], Resources(**CPU, wait=True), tmp_path, "notes")
    assert len(list(job.folder.glob("span*"))) == 1


def test_a_job_whose_set_up_fails_says_so(tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(UserError, match="1 of 1 run failed"):
        launch([Note(tmp_path, "a")], Resources(**CPU, setup=("test 1 = 2",), wait=True), tmp_path, "notes")
    assert "it was not started (setup failed: test 1 = 2); log: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--partition", "nope"], "invalid partition specified: nope"),
        (["--partition", "gpu", "--time", "8-00:00:00"], "Slurm would never start it: Partition"),
        (["--after", "1"], "after 1: Slurm does not know this job"),
        (["--slurm", "colour=red"], "unrecognized option '--colour=red' (asked for"),
    ],
)
def test_what_slurm_refuses_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, script: Script, tmp_path: Path, monkeypatch: Patch, capfd: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert script("irp", "--dataset", "digits", *arguments) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if "1 to run (slurm)" not in line]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert list(tmp_path.iterdir()) == []
    assert idle()
