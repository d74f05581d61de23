"""Several runs in one job of a real Slurm."""

import json
import subprocess
from pathlib import Path

import pytest

from autosparse.cluster import Resources, launch, slurm, status
from autosparse.config import IRPConfig
from autosparse.errors import UserError
from autosparse.jobs import IRPRun
from autosparse.jobs.base import TrainingOptions
from autosparse.tasks import Images
from tests.cluster.jobs import Note
from tests.conftest import tree
from tests.slurm.conftest import until

TWO_AT_ONCE = {"partition": "cpu", "gpus_per_node": 0, "cpus_per_task": 2}


def job_of(run: Note | IRPRun) -> str:
    return json.loads((run.folder / "job.json").read_text())["job"]


def test_failed_run_leaves_neighbours_alone_and_is_submitted_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [Note(tmp_path, word, fail="killed" if word == "b" else "") for word in "abcde"]
    resources = Resources(**TWO_AT_ONCE, runs_per_job=3, wait=True)
    with pytest.raises(UserError, match="1 of 5 runs failed"):
        launch(runs, resources, tmp_path, "notes")
    said = capsys.readouterr().err
    assert "note_b: it was killed" in said
    assert "Slurm: FAILED" in said
    assert [run.is_complete() for run in runs] == [True, False, True, True, True]
    assert len({job_of(run) for run in runs}) == 2
    launch([*runs[:1], Note(tmp_path, "b"), *runs[2:]], resources, tmp_path, "notes")
    assert "5 runs, 4 complete, 1 to run" in capsys.readouterr().err
    assert len({job_of(run) for run in runs}) == 3


def test_states_are_those_of_each_run(tmp_path: Path) -> None:
    runs = [
        Note(tmp_path, "a"),
        Note(tmp_path, "b", fail="user"),
        Note(tmp_path, "c", seconds=600),
        Note(tmp_path, "d"),
    ]
    launch(runs, Resources(**TWO_AT_ONCE, runs_per_job=4, runs_at_once=1), tmp_path, "notes")
    expected = ["complete", "failed", "running", "waiting in its job"]
    until(lambda: [row["state"] for row in status.rows([run.folder for run in runs])] == expected)


def test_requeued_job_ends_with_the_bytes_of_undisturbed_runs(tmp_path: Path) -> None:
    def runs(output: Path) -> list[IRPRun]:
        setting = TrainingOptions(task=Images(source="digits"), epochs=6)
        return [IRPRun(output=output, setting=setting, config=IRPConfig(iterations=6, seed=seed)) for seed in range(3)]

    calm, stopped = runs(tmp_path / "calm"), runs(tmp_path / "stopped")
    launch(calm, Resources(cluster="local", cpus_per_task=1), tmp_path / "calm", "irp")
    launch(stopped, Resources(**TWO_AT_ONCE, runs_per_job=3), tmp_path / "stopped", "irp")
    history = stopped[0].folder / "history.json"
    until(lambda: history.is_file() and len(json.loads(history.read_text())) >= 2)
    subprocess.run(["scancel", "--signal=USR2", job_of(stopped[0])], check=True, timeout=600)
    until(lambda: slurm.queue() == {})
    records = [json.loads((run.folder / "status.json").read_text()) for run in stopped]
    assert [record["state"] for record in records] == ["complete"] * 3
    assert {record["requeues"] for record in records} == {1}
    for one, other in zip(calm, stopped, strict=True):
        assert tree(one.folder / "triples.zarr") == tree(other.folder / "triples.zarr")
