"""A disk that is full: nothing committed is lost, and the error names the file."""

import errno
import io
import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from autosparse.store import TripleStore
from autosparse.store.schema import LEDGER
from tests.conftest import Patch, tree
from tests.store.helpers import random_run, write

RUN, SHARD = random_run(20_011), 4096


@pytest.mark.parametrize("until", [17, 60])  # before the first commit and after it
def test_error_of_a_full_disk_names_the_file_and_the_run_resumes(
    until: int, tmp_path: Path, monkeypatch: Patch
) -> None:
    path, calls = tmp_path / "s", itertools.count(1)

    def fsync(descriptor: int) -> None:
        if next(calls) >= until:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left on device") as raised:
        write(path, RUN, SHARD)
    monkeypatch.undo()
    assert raised.value.errno == errno.ENOSPC
    assert not [name for name in tree(path) if name.endswith(".tmp")]
    assert (path / LEDGER).exists() == (until == 60)
    if until == 60:
        assert TripleStore.open(path, unfinished=True).problems() == []
    write(path, RUN, SHARD)
    write(tmp_path / "whole", RUN, SHARD)
    assert tree(path) == tree(tmp_path / "whole")


def test_too_many_open_files_are_not_called_damage(tmp_path: Path, monkeypatch: Patch) -> None:
    write(tmp_path, RUN, SHARD)
    store = TripleStore.open(tmp_path)

    def refuse(*arguments: Any) -> io.BufferedReader:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        store.grad()
