"""Records that an attempt at a job leaves."""

import json
import os
from pathlib import Path

import pytest

from autosparse.cluster import records
from autosparse.cluster.attempt import Attempt
from autosparse.cluster.job import failure
from autosparse.errors import UserError
from tests.cluster.jobs import Note
from tests.conftest import Patch


def status(job: Note) -> dict:
    return json.loads((job.folder / "status.json").read_text())


def error(job: Note) -> str:
    failed = failure(job)
    assert failed
    return failed.error.partition("; log: ")[0]


@pytest.fixture
def on_slurm(monkeypatch: Patch, tmp_path: Path) -> None:
    """As Slurm starts a job that it has queued again three times."""
    given = {"JOB_ID": "42", "NTASKS": "1", "JOB_NUM_NODES": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in {**given, "RESTART_COUNT": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SUBMITIT_FOLDER", str(tmp_path / "submitted"))


@pytest.mark.usefixtures("on_slurm")
def test_too_many_requeues_fail_the_run(tmp_path: Path) -> None:
    job = Note(tmp_path, "a")
    job.folder.mkdir()
    (job.folder / "status.json").write_text('{"state": "running"}')  # of the attempt that lost its node
    why = "was queued again more than 2 times, see max-requeues"
    with pytest.raises(UserError, match=why):
        Attempt(job, 1, max_requeues=2)()
    assert (status(job)["state"], status(job)["why"], status(job)["job"]) == ("failed", why, "42")
    assert error(job) == why
    Attempt(job, 1, max_requeues=3)()
    assert (status(job)["state"], status(job)["requeues"]) == ("complete", 3)


def test_errors_of_earlier_attempts_are_removed(tmp_path: Path) -> None:
    job = Note(tmp_path, "a", fail="bug")
    (job.folder / "logs").mkdir(parents=True)
    (job.folder / "logs" / "rank7.error.json").write_text('{"error": "long ago", "user": true}')
    with pytest.raises(ZeroDivisionError):
        Attempt(job, 1)()
    assert error(job).startswith("ZeroDivisionError: a bug in two lines (jobs.py, line ")
    assert [path.name for path in job.folder.glob("logs/*.json")] == ["rank0.error.json"]


def test_unfinished_files_of_a_killed_attempt_are_removed(tmp_path: Path) -> None:
    job = Note(tmp_path, "a")
    left, submitting = job.folder / ".checkpoint.pt.tmp", job.folder / ".job.json.tmp"
    for folder in (left, submitting):
        folder.mkdir(parents=True)
    Attempt(job, 1)()
    assert not left.exists()
    assert submitting.exists()


def test_commit_is_known_though_a_signal_ended_git(tmp_path: Path, monkeypatch: Patch) -> None:
    git, killed = tmp_path / "git", tmp_path / "killed"
    git.write_text(f"#!/bin/sh\n[ -e {killed} ] || {{ touch {killed}; kill -TERM $$; }}\necho 12ab\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert records.git_commit() == "12ab+"
    assert killed.exists()
