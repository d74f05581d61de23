"""The process is killed or the power fails at any system call: nothing is read wrongly, and the run resumes."""

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autosparse.errors import StoreError
from autosparse.store import TripleStore, writer
from autosparse.store.schema import LEDGER
from tests.conftest import Patch, tree
from tests.store.helpers import random_run, write

RUN, SHARD = random_run(100, iterations=1), 64
Files = dict[str, bytes]

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux what a descriptor is open on")


class Disk:
    """Records the content of a file as of its last fsync, and the names in a folder as of the folder's.

    Three images are taken at every step: the files that are sure to survive a power failure; all names with the synced
    content; and everything, which a killed process leaves.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self.images: list[Files] = []

    def fsync(self, descriptor: int) -> None:
        status, path = os.fstat(descriptor), Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if stat.S_ISDIR(status.st_mode):
            self._names[status.st_ino] = {child.name: child.stat().st_ino for child in path.iterdir()}
        else:
            self._contents[status.st_ino] = path.read_bytes()

    def record(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call, with images taken before it."""

        def recorded(*arguments: Any, **options: Any) -> Any:
            images = self.durable(), self._named(), tree(self._root)
            self.images += [image for image in images if image not in self.images]
            return call(*arguments, **options)

        return recorded

    def durable(self) -> Files:
        """Return the files that are sure to survive a power failure."""
        return {name: self._contents[inode] for name, inode in self._durable(self._root.stat().st_ino, "")}

    def _named(self) -> Files:
        files = {path: path.stat().st_ino for path in self._root.rglob("*") if path.is_file()}
        return {str(path.relative_to(self._root)): self._contents.get(inode, b"") for path, inode in files.items()}

    def _durable(self, inode: int, name: str) -> list[tuple[str, int]]:
        if inode not in self._names:
            return [(name[1:], inode)] if inode in self._contents else []
        children = self._names[inode].items()
        return [pair for child, number in children for pair in self._durable(number, f"{name}/{child}")]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: Patch) -> Disk:
    """The images of a disk while a run was written to it."""
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", disk.record(disk.fsync))
        for name in ("link", "replace", "unlink"):
            patched.setattr(os, name, disk.record(getattr(os, name)))
        patched.setattr(writer, "_WRITERS", 1)  # so that the steps come in one order
        write(tmp_path / "disk" / "s", RUN, SHARD)
    return disk


def test_run_resumes_from_what_survives_a_crash_at_any_step(disk: Disk, tmp_path: Path) -> None:
    assert len(disk.images) > 70
    whole = tree(tmp_path / "disk" / "s")
    assert disk.durable() == {f"s/{name}": content for name, content in whole.items()}
    for number, image in enumerate(disk.images):
        path = tmp_path / str(number) / "s"
        for name, content in image.items():
            file = tmp_path / str(number) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        if (path / LEDGER).exists():
            assert TripleStore.open(path, unfinished=True).problems() == []
        with contextlib.suppress(StoreError):
            TripleStore.open(path)
            assert tree(path) == whole  # only a whole store opens
        if tree(path) != whole:
            write(path, RUN, SHARD)
        assert tree(path) == whole
