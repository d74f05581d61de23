"""Waiting, with a queue that only answers; on a real one in tests/slurm."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from autosparse.cluster import records, submit
from autosparse.cluster.slurm import State
from tests.cluster.jobs import Note
from tests.conftest import Capture, Patch

Polls = Callable[[Iterable[dict[str, str] | None]], None]


@pytest.fixture
def polls(monkeypatch: Patch) -> Polls:
    """Let the queue answer this, poll for poll: a state by job id, or None for silence."""

    def answer(answers: Iterable[dict[str, str] | None]) -> None:
        rows: Iterator[dict[str, str] | None] = iter(answers)

        def queue() -> dict[str, State] | None:
            states = next(rows)
            if states is None:
                return None
            return {job_id: State(*state.split()) for job_id, state in states.items()}

        monkeypatch.setattr("autosparse.cluster.slurm.queue", queue)
        monkeypatch.setattr("autosparse.cluster.slurm.last_states", lambda: {"1": State("CANCELLED", "None")})
        monkeypatch.setattr(time, "sleep", lambda seconds: None)

    return answer


def submitted(folder: Path) -> Note:
    """A run that was submitted as job 1."""
    job = Note(folder, "a")
    records.write_submission(job, "1", folder / "log")
    return job


def says(job: Note, state: str) -> None:
    records.write_status(job.folder, state, "1")


RUNNING, PENDING, AGAIN = "RUNNING None", "PENDING Priority", "PENDING BeginTime"


def test_job_that_left_the_queue_without_output_has_failed(polls: Polls, tmp_path: Path) -> None:
    job = submitted(tmp_path)
    polls([{"1": PENDING}, {}, {}])
    (failed,) = submit.wait([job], "notes")
    assert failed.error == f"it was not started; log: {tmp_path}/log; Slurm: CANCELLED"


def test_run_of_another_job_is_waited_for(polls: Polls, tmp_path: Path) -> None:
    job = submitted(tmp_path)
    says(job, "running")
    holder = {"host": "node7", "pid": 1, "started": "1", "job": "2"}  # of the same command, given at the same time
    (job.folder / ".lease-1").write_text(json.dumps(holder))

    def ending() -> Iterator[dict[str, str] | None]:
        yield from [{"1": RUNNING}, {}, {}, {}]
        says(job, "complete")
        (job.folder / "word").write_text("a")
        yield {}

    polls(ending())
    assert submit.wait([job], "notes") == []


def test_requeued_job_is_reported_and_waited_for(polls: Polls, tmp_path: Path, capsys: Capture) -> None:
    job = submitted(tmp_path)
    says(job, "failed")  # what an attempt leaves that lost its node, say
    answers = [{"1": RUNNING}, {"1": "COMPLETING None"}, {"1": AGAIN}, {"1": AGAIN}, {"1": RUNNING}]

    def ending() -> Iterator[dict[str, str] | None]:
        yield from answers
        says(job, "complete")
        (job.folder / "word").write_text("a")
        yield {"1": RUNNING}

    polls(ending())
    assert submit.wait([job], "notes") == []
    assert capsys.readouterr().err.splitlines() == [f"queued again: {job.folder} (1)"]


def test_silent_queue_is_asked_again(polls: Polls, tmp_path: Path, capsys: Capture) -> None:
    polls([{"1": RUNNING}, None, None, {"1": RUNNING}, None, {}, {}])
    assert len(submit.wait([submitted(tmp_path)], "notes")) == 1
    assert capsys.readouterr().err.count("squeue does not answer; still waiting") == 2
