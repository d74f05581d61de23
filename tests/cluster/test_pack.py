"""Several runs in one process: each has its own records, as if it were alone."""

import json
import os
import signal
from pathlib import Path

import pytest

from autosparse.cluster import Resources, launch, lease, status
from autosparse.cluster.attempt import Attempt
from autosparse.errors import UserError
from tests.cluster.conftest import Commands
from tests.cluster.jobs import Note


def states(jobs: list[Note]) -> list[str]:
    return [json.loads((job.folder / "status.json").read_text())["state"] for job in jobs]


@pytest.mark.parametrize("cluster", ["inline", "local"])
def test_packs_of_what_is_not_complete_run_and_one_that_fails_does_so_alone(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch([Note(tmp_path, "b")], Resources(cluster="inline"), tmp_path, "notes")
    jobs = [Note(tmp_path, "a"), Note(tmp_path, "b"), Note(tmp_path, "c", fail="user"), Note(tmp_path, "d")]
    with pytest.raises(UserError, match="1 of 4 runs failed"):
        launch(jobs, Resources(cluster=cluster), tmp_path, "notes", pack=2)  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert f"4 runs, 1 complete, 3 to run ({cluster}, 2 together)" in said
    assert f"failed: {jobs[2].folder}: no such word" in said
    assert states(jobs) == ["complete", "complete", "failed", "complete"]
    for job, together in zip(jobs, (True, False, True, False), strict=True):
        log = (job.folder / "logs" / "rank0.log").read_text()
        assert log.count("together") == log.count(f"together {job.folder.name}") == together
    assert lease.holder_of(jobs[0].folder) is None
    if cluster == "inline":
        assert "note_a: together note_a" in said
    else:  # of what submitit writes, that of a pack in which a run failed is kept, with both its runs
        (record,) = tmp_path.glob("submitted/*/jobs.json")
        assert sorted(json.loads(record.read_text())["jobs"].values()) == [
            ["../../note_a", "../../note_c"],
            ["../../note_d"],
        ]


def test_a_bug_is_that_of_the_whole_pack(tmp_path: Path) -> None:
    jobs = [Note(tmp_path, "a"), Note(tmp_path, "b", fail="bug"), Note(tmp_path, "c")]
    failed = Attempt(tuple(jobs), 1).run()
    assert [str(error) for error in failed.values()] == ["a bug\nin two lines"] * 3
    assert states(jobs) == ["failed"] * 3


def test_a_pack_that_is_asked_to_stop_says_so_of_each_run(tmp_path: Path) -> None:
    jobs = [Note(tmp_path, "a"), Note(tmp_path, "b", fail="stop")]
    with pytest.raises(KeyboardInterrupt):
        Attempt(tuple(jobs), 1).run()
    assert states(jobs) == ["interrupted"] * 2
    assert [lease.holder_of(job.folder) for job in jobs] == [None, None]


def test_a_run_that_another_job_works_on_is_left_out(tmp_path: Path) -> None:
    jobs = [Note(tmp_path, word) for word in "abc"]
    with lease.lease(jobs[1].folder, None):
        failed = Attempt(tuple(jobs), 1).run()
    assert [*failed] == [jobs[1].folder]
    assert "works on this run" in str(failed[jobs[1].folder])
    assert [job.is_complete() for job in jobs] == [True, False, True]
    assert not (jobs[1].folder / "status.json").exists()


def test_a_pack_is_one_task_of_the_array(commands: Commands, tmp_path: Path) -> None:
    jobs = [Note(tmp_path, word) for word in "abcde"]
    launch(jobs, Resources(cluster="slurm"), tmp_path, "notes", pack=2)
    assert "--array=0-2%3" in (jobs[0].folder / "batch.sh").read_text()
    said = [json.loads((job.folder / "job.json").read_text())["job"] for job in jobs]
    assert said == ["4242_0", "4242_0", "4242_1", "4242_1", "4242_2"]


def test_a_process_that_works_on_several_runs_is_asked_once(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[tuple[int, int]]()
    monkeypatch.setattr(os, "kill", lambda *signalled: asked.append(signalled))
    folders = [tmp_path / word for word in "ab"]
    with lease.lease(folders[0], None), lease.lease(folders[1], None):
        assert status.stop(folders) == folders
    assert asked == [(os.getpid(), signal.SIGTERM)]
