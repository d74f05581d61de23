"""Many who watch, and few questions."""

import errno
import fcntl
import itertools
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from autosparse.cluster import sharing, slurm
from tests.cluster.conftest import Commands


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files lie that are shared."""
    monkeypatch.setattr(sharing, "FOLDER", tmp_path / "mine")
    return sharing.FOLDER


@pytest.mark.parametrize("heard", ["new", None])
def test_those_who_wait_share_the_next_answer(heard: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one that was asked for before they came; silence is an answer, too."""
    monkeypatch.setattr(sharing, "PAUSE", 1.0)
    asked, waiting = threading.Event(), threading.Semaphore(0)
    answers = list[str | None]()

    def first() -> str:
        asked.set()
        for _ in range(7):
            waiting.acquire()
        answers.append("old")
        return "old"

    def other() -> str | None:
        answers.append(heard)
        return heard

    def come() -> str | None:
        waiting.release()
        return sharing.shared(other, "q")

    with ThreadPoolExecutor(8) as pool:
        old = pool.submit(sharing.shared, first, "q")
        asked.wait()
        new = [pool.submit(come) for _ in range(7)]
        assert old.result() == "old"
        assert {each.result() for each in new} == {heard}
    assert answers == ["old", heard]


def test_each_question_has_answers_of_its_own() -> None:
    assert sharing.shared(lambda: "1", "q") == "1"
    assert sharing.shared(lambda: "2", "r") == "2"


def test_a_file_that_was_cut_off_is_no_answer(files: Path) -> None:
    sharing.shared(lambda: "1", "q")
    (path,) = files.iterdir()
    for content in ("", '{"began": 1', "[]", '{"began": 99999999999, "ended": 99999999999, "answer": "of tomorrow"}'):
        path.write_text(content)
        assert sharing.shared(lambda: "2", "q") == "2"


def test_who_is_suspended_in_its_turn_stops_nobody(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sharing.shared(lambda: "1", "q")
    (path,) = files.iterdir()
    monkeypatch.setattr(sharing, "_PATIENCE", 0.1)
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert sharing.shared(lambda: "2", "q") == "2"
    assert '"1"' in path.read_text()


@pytest.mark.parametrize("what", ["open to all", "a link"])
def test_a_folder_that_others_may_write_is_not_used(what: str, files: Path, tmp_path: Path) -> None:
    if what == "open to all":
        files.mkdir()
        files.chmod(0o777)
    else:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        files.symlink_to(tmp_path / "elsewhere")
    assert sharing.shared(lambda: "1", "q") == "1"
    assert list(files.iterdir()) == []


def test_neither_a_full_disk_nor_a_file_system_without_locks_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        assert [sharing.shared(lambda n=n: str(n), "q") for n in range(2)] == ["0", "1"]  # type: ignore[misc]
    monkeypatch.setattr(fcntl, "flock", full)
    assert sharing.shared(lambda: "2", "q") == "2"


def test_a_filter_in_the_environment_makes_another_question(
    commands: Commands, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.answer("squeue", 'echo "1|RUNNING|None"')
    slurm.watched_queue()
    monkeypatch.setenv("SQUEUE_PARTITION", "gpu")
    slurm.watched_queue()
    assert len([*files.iterdir()]) == 2


def test_without_slurm_nobody_waits(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert slurm.watched_queue() is None
    assert not files.exists()


def test_processes_together_ask_slurm_once_in_some_seconds(commands: Commands) -> None:
    commands.answer("squeue", 'date +%s.%N >>"$0.times"; sleep 0.2; echo "1|RUNNING|None"')
    code = "from autosparse.cluster import slurm\ninput()\nprint(slurm.watched_queue())"
    watching = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    for process in watching:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert {process.communicate()[0] for process in watching} == {f"{ {'1': slurm.State('RUNNING', 'None')} }\n"}
    times = [float(line) for line in (commands.folder / "squeue.times").read_text().split()]
    assert len(times) < 6
    assert all(after - before > 2 for before, after in itertools.pairwise(times))
