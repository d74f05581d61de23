"""A disk that is full or read-only, too few files: nothing committed is lost, and the cause is named."""

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from autosparse.store import TripleStore
from autosparse.store.schema import LEDGER, Ledger
from autosparse.store.storage import Folder
from tests.conftest import tree
from tests.store.helpers import random_run, succeeds, write

RUN, SHARD = random_run(20_011), 4096


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    """The files of an undisturbed run."""
    write(tmp_path / "whole", RUN, SHARD)
    return tree(tmp_path / "whole")


def mounted(options: str, folder: Path) -> bool:
    """Mount a temporary file system and return True if that is allowed."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted("size=16k", folder):
        pytest.skip("only root may mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def remount(options: str, folder: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def check_failure(path: Path, number: int) -> bool:
    """Write a store and return True if that fails: the error names the file, and all committed files are whole."""
    error = None
    try:
        write(path, RUN, SHARD)
    except OSError as raised:
        error = raised
    if error is None:
        return False
    assert error.errno == number
    assert str(error.filename).startswith(f"{path}")
    assert not [name for name in (str(error.filename), *tree(path.parent)) if name.endswith(".tmp")]
    if (path / LEDGER).exists():
        assert TripleStore.open(path, unfinished=True).problems() == []
    return True


@pytest.mark.parametrize(("option", "sizes"), [("size={}k", range(16, 400, 12)), ("nr_inodes={}", range(2, 70, 3))])
def test_a_disk_that_is_full_at_any_point(disk: Path, expected: dict[str, bytes], option: str, sizes: range) -> None:
    path, failures, committed = disk / "s", 0, -1
    for size in sizes:
        remount(f"size=1m,{option.format(size)}", disk)
        if not check_failure(path, errno.ENOSPC):
            break
        before, failures = committed, failures + 1
        committed = Ledger.read(Folder(path)).iterations if (path / LEDGER).exists() else -1
        assert committed >= before
    assert failures > 10
    assert tree(path) == expected


@pytest.mark.parametrize("until", [0, 2, 5])
def test_a_disk_that_becomes_read_only(disk: Path, expected: dict[str, bytes], until: int) -> None:
    remount("size=1m", disk)
    path = disk / "s"
    write(path, RUN, SHARD, until=until)
    remount("ro", disk)
    assert check_failure(path, errno.EROFS)
    remount("rw", disk)
    write(path, RUN, SHARD)
    remount("ro", disk)
    assert TripleStore.open(path).problems() == []
    assert tree(path) == expected


def read_without_files(path: Path) -> None:
    store = TripleStore.open(path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    with pytest.raises(OSError, match="Too many open files") as raised:
        store.grad()
    assert raised.value.errno == errno.EMFILE


def test_too_many_open_files_are_not_called_damage(tmp_path: Path) -> None:
    write(tmp_path / "s", RUN, SHARD)
    assert succeeds(read_without_files, tmp_path / "s")
