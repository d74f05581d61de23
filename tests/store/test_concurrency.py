"""Two runs that write one store by mistake: the second is refused, and nothing of the first is lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosparse.distributed import Group
from autosparse.errors import StoreError
from autosparse.store import TripleStore, TripleWriter
from autosparse.store.schema import LEDGER, MARKER, Ledger
from autosparse.store.storage import Folder
from tests.conftest import Patch, tree
from tests.store.helpers import advance, random_run, write

RUN, SHARD = random_run(20_011), 4096


class Interrupted:
    """A group of one process, in whose next commit something happens after the shards are written."""

    def __init__(self) -> None:
        self.action: Callable[[], object] = lambda: None

    def gather(self, part: Any) -> list[Any]:
        action, self.action = self.action, lambda: None
        action()
        return [part]


def resume(path: Path, group: Interrupted | None = None) -> TripleWriter:
    """Open the writer of a process that takes itself for the only one."""
    processes = Group(gather=group.gather) if group else Group()
    return TripleWriter.open(path, RUN.layout, RUN.iterations, {"seed": 0}, processes)


def check_finished(path: Path, size: int = 1) -> None:
    """Check that the run can be finished, with the bytes of an undisturbed run."""
    write(path, RUN, SHARD, size)
    write(path.with_name("undisturbed"), RUN, SHARD)
    assert tree(path) == tree(path.with_name("undisturbed"))


def test_second_writer_of_a_shard_raises(tmp_path: Path) -> None:
    path, group = tmp_path / "s", Interrupted()
    write(path, RUN, SHARD, until=0)
    first, second = resume(path, group), resume(path)

    def write_again() -> None:
        with pytest.raises(StoreError, match=r"another process has written theta/c/\d; run one at a time, or, if the"):
            advance(second, RUN)

    group.action = write_again
    advance(first, RUN)
    assert np.array_equal(first.store.theta(), RUN.theta)
    check_finished(path)


def test_commit_after_another_process_committed_or_cleaned_up_raises(tmp_path: Path) -> None:
    path, group = tmp_path / "s", Interrupted()
    write(path, RUN, SHARD, until=1)
    writer = resume(path, group)
    group.action = lambda: resume(path)
    with pytest.raises(StoreError, match=r"alive/c/0/\d was removed before its commit; run one at a time"):
        advance(writer, RUN)
    assert TripleStore.open(path, unfinished=True).densities == [1.0]
    ledger = Ledger.read(writer.storage)
    group.action = lambda: Ledger(ledger.files, [*ledger.densities, 0.5]).write(writer.storage)
    with pytest.raises(StoreError, match="another process committed in between; run one at a time"):
        advance(writer, RUN)


@pytest.mark.parametrize(("until", "missing"), [(0, "theta/c/1"), (1, "alive/c/0/1"), (4, "survival/c/1")])
def test_commit_without_the_shards_of_another_rank_raises(tmp_path: Path, until: int, missing: str) -> None:
    path = tmp_path / "s"
    write(path, RUN, SHARD, until=until)
    group = Group(0, 2, lambda part: [part])
    writer = TripleWriter.open(path, RUN.layout, RUN.iterations, {"seed": 0}, group)
    with pytest.raises(StoreError, match=f"{missing} was not written; the iteration is not finished"):
        advance(writer, RUN)
    check_finished(path, 2)


def test_store_finished_while_it_is_opened_is_not_called_damaged(tmp_path: Path, monkeypatch: Patch) -> None:
    path, read = tmp_path / "s", Folder.read
    write(path, RUN, SHARD, until=4)  # survival is still missing

    def finish_after_reading(folder: Folder, name: str) -> bytes:
        try:
            return read(folder, name)
        finally:
            if name in (MARKER, LEDGER):
                monkeypatch.setattr(Folder, "read", read)
                write(path, RUN, SHARD)

    monkeypatch.setattr(Folder, "read", finish_after_reading)
    with pytest.raises(StoreError, match="is not finished"):
        TripleStore.open(path)
    assert TripleStore.open(path).complete
