"""A disk that is full or read-only, too few files or threads: nothing committed is lost, and the cause is named."""

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autosparse.store import TripleStore, shards
from autosparse.store.schema import LEDGER, Ledger
from autosparse.store.storage import Folder
from autosparse.store.verify import problems
from tests.conftest import tree
from tests.store.drawn import draw, write
from tests.store.test_kill import start

RUN, SHARD = draw(20_011), 4096


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    """The files of a run that nothing happened to."""
    write(tmp_path / "whole", RUN, SHARD)
    return tree(tmp_path / "whole")


def mounted(options: str, folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0


def remount(options: str, folder: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small one of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted("size=16k", folder):
        pytest.skip("only root may mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fail(path: Path) -> OSError | None:
    """Write a store, or as much as there is room for."""
    try:
        write(path, RUN, SHARD)
    except OSError as error:
        return error
    return None


def check_failure(error: OSError, number: int, path: Path) -> None:
    """It names the file that was to be; nothing lies about, and what is committed is whole."""
    assert error.errno == number
    assert str(error.filename).startswith(f"{path}")
    assert ".tmp" not in str(error.filename)
    assert not [name for name in tree(path.parent) if name.endswith(".tmp")]
    if (path / LEDGER).exists():
        assert problems(TripleStore.open(path, unfinished=True)) == []


@pytest.mark.parametrize(("option", "sizes"), [("size={}k", range(16, 400, 12)), ("nr_inodes={}", range(2, 70, 3))])
def test_a_disk_that_is_full_at_any_point(disk: Path, expected: dict[str, bytes], option: str, sizes: range) -> None:
    path, failures, committed = disk / "s", 0, -1
    for size in sizes:
        remount(f"size=1m,{option.format(size)}", disk)
        error = fail(path)
        if error is None:
            break
        check_failure(error, errno.ENOSPC, path)
        before, failures = committed, failures + 1
        committed = Ledger.read(Folder(path)).iterations if (path / LEDGER).exists() else -1
        assert committed >= before
    assert failures > 10
    assert tree(path) == expected


@pytest.mark.parametrize("until", range(6))
def test_a_disk_that_becomes_read_only(disk: Path, expected: dict[str, bytes], until: int) -> None:
    remount("size=1m", disk)
    path = disk / "s"
    write(path, RUN, SHARD, until=until)
    remount("ro", disk)
    error = fail(path)
    assert error is not None
    check_failure(error, errno.EROFS, path)
    remount("rw", disk)
    write(path, RUN, SHARD)
    remount("ro", disk)
    assert problems(TripleStore.open(path)) == []
    assert tree(path) == expected


def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    write(tmp_path / "s", RUN, SHARD, until=2)
    for folder in (tmp_path / "s").rglob("*/"):
        folder.chmod(0o500)
    error = fail(tmp_path / "s")
    for folder in (tmp_path / "s").rglob("*/"):
        folder.chmod(0o700)
    assert error is not None
    check_failure(error, errno.EACCES, tmp_path / "s")


def write_up_to(path: Path, size: int) -> None:
    """In a process that may write no larger files."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    error = fail(path)
    assert error is not None
    check_failure(error, errno.EFBIG, path)


@pytest.mark.parametrize("size", [100, 1000, 10_000])
def test_files_that_may_not_grow(tmp_path: Path, expected: dict[str, bytes], size: int) -> None:
    path = tmp_path / "s"
    process = start(write_up_to, path, size)
    process.join()
    assert process.exitcode == 0
    write(path, RUN, SHARD)
    assert tree(path) == expected


def read_with_no_files_left(path: Path) -> None:
    """In a process that may open no more."""
    store = TripleStore.open(path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    with pytest.raises(OSError, match="Too many open files") as found:
        store.grad()
    assert found.value.errno == errno.EMFILE


def test_too_few_files_are_no_damage(tmp_path: Path) -> None:
    write(tmp_path / "s", RUN, SHARD)
    process = start(read_with_no_files_left, tmp_path / "s")
    process.join()
    assert process.exitcode == 0


def test_too_few_threads_are_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "s", RUN, SHARD)
    store = TripleStore.open(tmp_path / "s")

    def no_more(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(shards, "crc32c", no_more)
    for read in (store.theta, lambda: store.check("theta/c/0")):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            read()
