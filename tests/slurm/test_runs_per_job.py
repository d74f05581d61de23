"""Several runs in one job of a real Slurm."""

import json
from pathlib import Path

import pytest

from autosparse.cluster import Resources, launch, status
from autosparse.errors import UserError
from tests.cluster.jobs import Note
from tests.conftest import Capture
from tests.slurm.conftest import until

TWO_AT_ONCE = {"partition": "cpu", "gpus_per_node": 0, "cpus_per_task": 2}


def job_of(run: Note) -> str:
    return json.loads((run.folder / "job.json").read_text())["job"]


def test_failed_run_leaves_neighbours_alone_and_is_submitted_again(tmp_path: Path, capsys: Capture) -> None:
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
