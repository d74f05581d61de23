"""Waiting, with a queue that only answers; on a real one in tests/slurm."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from autosparse.cluster import submit
from autosparse.cluster.slurm import State
from autosparse.cluster.submit import Submitted
from tests.cluster.conftest import Commands
from tests.cluster.jobs import Note

Polls = Callable[[Iterable[dict[str, str] | None]], None]


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> Polls:
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


def says(job: Note, state: str) -> None:
    job.folder.mkdir(exist_ok=True, parents=True)
    (job.folder / "status.json").write_text(json.dumps({"state": state}))


RUNNING, PENDING, AGAIN = "RUNNING None", "PENDING Priority", "PENDING BeginTime"


def test_job_that_left_the_queue_without_output_has_failed(polls: Polls, tmp_path: Path) -> None:
    job = Note(tmp_path, "a")
    polls([{"1": PENDING}, {}, {}])
    (failed,) = submit.wait([(job, Submitted("1", tmp_path / "log"))], "notes")
    assert failed.error == f"it was not started; log: {tmp_path}/log; Slurm: CANCELLED"


def test_run_of_another_job_is_waited_for(polls: Polls, tmp_path: Path) -> None:
    job = Note(tmp_path, "a")
    says(job, "running")
    holder = {"host": "node7", "pid": 1, "started": "1", "job": "2"}  # of the same command, given at the same time
    (job.folder / ".lease-1").write_text(json.dumps(holder))

    def ending() -> Iterator[dict[str, str] | None]:
        yield from [{"1": RUNNING}, {}, {}, {}]
        says(job, "complete")
        (job.folder / "word").write_text("a")
        yield {}

    polls(ending())
    assert submit.wait([(job, Submitted("1", tmp_path / "log"))], "notes") == []


def test_requeued_job_is_reported_and_waited_for(
    polls: Polls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Note(tmp_path, "a")
    says(job, "failed")  # what an attempt leaves that lost its node, say
    answers = [{"1": PENDING}, {"1": RUNNING}, {"1": "COMPLETING None"}, {"1": AGAIN}, {"1": AGAIN}, {"1": RUNNING}]

    def ending() -> Iterator[dict[str, str] | None]:
        yield from answers
        says(job, "complete")
        (job.folder / "word").write_text("a")
        yield {"1": RUNNING}

    polls(ending())
    assert submit.wait([(job, Submitted("1", tmp_path / "log"))], "notes") == []
    assert capsys.readouterr().err.splitlines() == [f"queued again: {job.folder} (1)"]


def test_silent_queue_is_asked_again(polls: Polls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    polls([{"1": RUNNING}, None, None, {"1": RUNNING}, None, {}, {}])
    assert len(submit.wait([(Note(tmp_path, "a"), Submitted("1", tmp_path / "log"))], "notes")) == 1
    assert capsys.readouterr().err.count("squeue does not answer; still waiting") == 2


def test_accounting_is_not_asked(commands: Commands, tmp_path: Path) -> None:
    """It may be off, hang, or call a job NODE_FAIL that Slurm has requeued."""
    commands.answer("sacct", "echo 'JobID|State|NodeList'; echo '1|NODE_FAIL|gpu1'")
    commands.answer(
        "squeue", 'n=$(ls "$0".* 2>/dev/null | wc -l); touch "$0.$n"; [ $n -gt 1 ] || echo "1|RUNNING|None"'
    )
    job = Note(tmp_path, "a")
    (failed,) = submit.wait([(job, Submitted("1", tmp_path / "log"))], "notes")
    assert failed.error == f"it was not started; log: {tmp_path}/log"
    assert commands.calls("sacct") == []
    assert len(commands.calls("squeue")) == 5
