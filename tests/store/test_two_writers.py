"""Two processes that each take themselves for the only one: the second is refused, and nothing of the first is lost."""

from pathlib import Path

import numpy as np
import pytest

from autosparse.errors import StoreError
from autosparse.store import TripleStore, TripleWriter
from autosparse.store.schema import LEDGER, MARKER
from autosparse.store.storage import Folder
from autosparse.store.verify import problems
from tests.conftest import tree
from tests.store.drawn import draw, write

RUN, SHARD = draw(20_011), 4096


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    """The files of a run that nothing happened to."""
    write(tmp_path / "whole", RUN, SHARD)
    return tree(tmp_path / "whole")


def two(path: Path, until: int = 0) -> list[TripleWriter]:
    """Two processes, each of which takes itself for the only one."""
    write(path, RUN, SHARD, until=until)
    return [TripleWriter.resume(path) for _ in range(2)]


def test_the_second_of_two_writers_of_a_shard_is_refused(tmp_path: Path, expected: dict[str, bytes]) -> None:
    first, second = two(tmp_path / "s")
    files = first.write_features(RUN.theta, RUN.grad)
    with pytest.raises(StoreError, match=r"another process has written theta/c/\d; one run at a time, or, if that one"):
        second.write_features(RUN.theta, RUN.grad)
    first.commit(files, 1.0)
    assert np.array_equal(first.store.theta(), RUN.theta)
    write(tmp_path / "s", RUN, SHARD)
    assert tree(tmp_path / "s") == expected


@pytest.mark.parametrize("until", [1, 2])
def test_a_commit_after_that_of_another_process_is_refused(tmp_path: Path, until: int) -> None:
    first, second = two(tmp_path / "s", until)
    first.commit(first.write_alive(until, RUN.masks[until]), RUN.masks[until].density)
    with pytest.raises(StoreError, match="another process has committed meanwhile; one run at a time"):
        second.commit({}, RUN.masks[until].density)
    with pytest.raises(StoreError, match=rf"another process has written alive/c/{until - 1}/\d"):
        second.write_alive(until, RUN.masks[until])
    assert len(first.store.densities) == until + 1


def test_a_commit_of_what_another_process_has_cleaned_away_is_refused(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    path = tmp_path / "s"
    first, _ = two(path, 1)
    files = first.write_alive(1, RUN.masks[1])
    TripleWriter.clean(path)
    with pytest.raises(StoreError, match=r"alive/c/0/\d was removed before its commit; one run at a time"):
        first.commit(files, RUN.masks[1].density)
    assert TripleStore.open(path, unfinished=True).densities == [1.0]
    write(path, RUN, SHARD)
    assert tree(path) == expected


@pytest.mark.parametrize(("until", "missing"), [(0, "grad/c/1"), (1, "alive/c/0/1"), (2, "alive/c/1/1")])
def test_a_commit_without_the_shards_of_another_process_is_refused(tmp_path: Path, until: int, missing: str) -> None:
    path = tmp_path / "s"
    write(path, RUN, SHARD, until=until)
    first, second = (TripleWriter.resume(path, rank, 2) for rank in (0, 1))
    files = [
        rank.write_alive(until, RUN.masks[until]) if until else rank.write_features(RUN.theta, RUN.grad)
        for rank in (first, second)
    ]
    everything = files[0] | files[1]
    with pytest.raises(StoreError, match=f"{missing} was not written; the iteration is not finished"):
        first.commit({name: entry for name, entry in everything.items() if name != missing}, RUN.masks[until].density)
    first.commit(everything, RUN.masks[until].density)
    assert len(first.store.densities) == until + 1


def test_what_is_committed_while_another_process_cleans_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sizes = tmp_path / "s", Folder.sizes
    first, _ = two(path, 1)
    files = first.write_alive(1, RUN.masks[1])

    def then_commit(folder: Folder) -> dict[str, int]:
        monkeypatch.setattr(Folder, "sizes", sizes)
        found = sizes(folder)
        first.commit(files, RUN.masks[1].density)
        return found

    monkeypatch.setattr(Folder, "sizes", then_commit)
    TripleWriter.clean(path)
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
