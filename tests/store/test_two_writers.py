"""Two processes that each take themselves for the only one: the second is refused, and nothing of the first is lost."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosparse.distributed import Group
from autosparse.errors import StoreError
from autosparse.store import TripleStore, TripleWriter
from autosparse.store.schema import LEDGER, MARKER, Ledger
from autosparse.store.storage import Folder
from autosparse.store.verify import problems
from tests.conftest import tree
from tests.store.drawn import advance, draw, write

RUN, SHARD = draw(20_011), 4096


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    """The files of a run that nothing happened to."""
    write(tmp_path / "whole", RUN, SHARD)
    return tree(tmp_path / "whole")


class Meanwhile:
    """A group of one process; during its next commit, when the shards are written, something else happens."""

    def __init__(self) -> None:
        self.do: Callable[[], object] = lambda: None

    def gather(self, part: Any) -> list[Any]:
        do, self.do = self.do, lambda: None
        do()
        return [part]


def resume(path: Path, meanwhile: Meanwhile | None = None) -> TripleWriter:
    """A process that takes itself for the only one."""
    group = Group(gather=meanwhile.gather) if meanwhile else Group()
    return TripleWriter.open(path, RUN.layout, RUN.iterations, {"seed": 0}, group)


def test_the_second_of_two_writers_of_a_shard_is_refused(tmp_path: Path, expected: dict[str, bytes]) -> None:
    path, meanwhile = tmp_path / "s", Meanwhile()
    write(path, RUN, SHARD, until=0)
    first, second = resume(path, meanwhile), resume(path)

    def late() -> None:
        with pytest.raises(StoreError, match=r"another process has written theta/c/\d; one run at a time, or, if that"):
            advance(second, RUN)

    meanwhile.do = late
    advance(first, RUN)
    assert np.array_equal(first.store.theta(), RUN.theta)
    write(path, RUN, SHARD)
    assert tree(path) == expected


@pytest.mark.parametrize("until", [1, 2])
def test_a_commit_after_that_of_another_process_is_refused(tmp_path: Path, until: int) -> None:
    path, meanwhile = tmp_path / "s", Meanwhile()
    write(path, RUN, SHARD, until=until)
    first, second = resume(path), resume(path, meanwhile)
    ledger = Ledger.read(first.storage)
    meanwhile.do = lambda: Ledger(ledger.files, [*ledger.densities, 0.5]).write(first.storage)
    with pytest.raises(StoreError, match="another process has committed meanwhile; one run at a time"):
        advance(second, RUN)
    ledger.write(first.storage)
    with pytest.raises(StoreError, match=rf"another process has written alive/c/{until - 1}/\d"):
        advance(first, RUN)
    assert len(first.store.densities) == until


def test_a_commit_of_what_another_process_has_cleaned_away_is_refused(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    path, meanwhile = tmp_path / "s", Meanwhile()
    write(path, RUN, SHARD, until=1)
    first = resume(path, meanwhile)
    meanwhile.do = lambda: resume(path)
    with pytest.raises(StoreError, match=r"alive/c/0/\d was removed before its commit; one run at a time"):
        advance(first, RUN)
    assert TripleStore.open(path, unfinished=True).densities == [1.0]
    write(path, RUN, SHARD)
    assert tree(path) == expected


@pytest.mark.parametrize(("until", "missing"), [(0, "theta/c/1"), (1, "alive/c/0/1"), (4, "survival/c/1")])
def test_a_commit_without_the_shards_of_another_process_is_refused(
    tmp_path: Path, expected: dict[str, bytes], until: int, missing: str
) -> None:
    path = tmp_path / "s"
    write(path, RUN, SHARD, until=until)
    alone = Group(0, 2, lambda part: [part])
    first = TripleWriter.open(path, RUN.layout, RUN.iterations, {"seed": 0}, alone)
    with pytest.raises(StoreError, match=f"{missing} was not written; the iteration is not finished"):
        advance(first, RUN)
    assert len(first.store.densities) == until
    write(path, RUN, SHARD, 2)
    assert tree(path) == expected


def test_what_is_committed_while_another_process_cleans_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sizes, meanwhile = tmp_path / "s", Folder.sizes, Meanwhile()
    write(path, RUN, SHARD, until=1)
    first, listed, committed = resume(path, meanwhile), threading.Event(), threading.Event()

    def then_wait(folder: Folder) -> dict[str, int]:
        monkeypatch.setattr(Folder, "sizes", sizes)
        found = sizes(folder)
        listed.set()
        assert committed.wait(60)
        return found

    with ThreadPoolExecutor(1) as other:

        def clean() -> None:
            monkeypatch.setattr(Folder, "sizes", then_wait)
            cleaning.append(other.submit(resume, path))
            assert listed.wait(60)

        cleaning, meanwhile.do = list[Future[TripleWriter]](), clean
        advance(first, RUN)
        committed.set()
        cleaning[0].result()
    assert problems(TripleStore.open(path, unfinished=True)) == []
    assert np.array_equal(first.store.alive(1), RUN.masks[1].kept)


def test_a_store_finished_while_it_is_opened_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "s", Folder.read
    write(path, RUN, SHARD, until=4)  # survival is still to come, in another ledger

    def then_finish(folder: Folder, name: str) -> bytes:
        try:
            return read(folder, name)
        finally:
            if name in (MARKER, LEDGER):
                monkeypatch.setattr(Folder, "read", read)
                write(path, RUN, SHARD)

    monkeypatch.setattr(Folder, "read", then_finish)
    with pytest.raises(StoreError, match="is not finished"):
        TripleStore.open(path)
    assert TripleStore.open(path).complete


def test_a_writer_at_work_does_not_disturb_who_looks_at_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, is_dir = tmp_path / "s", Path.is_dir
    write(path, RUN, SHARD, until=3)
    temporary = path / "alive" / ".0.1234.tmp"
    temporary.write_bytes(b"half")

    def then_rename(file: Path) -> bool:
        found = is_dir(file)
        if file == temporary:
            temporary.unlink()
        return found

    monkeypatch.setattr(Path, "is_dir", then_rename)
    assert len(TripleStore.open(path, unfinished=True).densities) == 3
