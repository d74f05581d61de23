"""The power fails at any step: what a disk is sure to hold then is never read wrongly, and the run goes on from it."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autosparse.store import TripleStore, writer
from autosparse.store.schema import LEDGER
from autosparse.store.verify import problems
from tests.conftest import tree
from tests.store.drawn import draw, write
from tests.store.test_kill import run_again

RUN, SHARD = draw(100, iterations=1), 64
Files = dict[str, bytes]

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux what a descriptor is open on")


class Disk:
    """Keeps the content of a file as of its last fsync, and the names in a folder as of the folder's.

    A real one may keep more, so two images are taken at every step: the least, and all names with the least content.
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

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, with images taken before it."""

        def recorded(*arguments: Any, **options: Any) -> Any:
            self.images += [image for image in (self.least(), self._most()) if image not in self.images]
            return call(*arguments, **options)

        return recorded

    def least(self) -> Files:
        """What is sure to be there."""
        return {name: self._contents[inode] for name, inode in self._durable(self._root.stat().st_ino, "")}

    def _most(self) -> Files:
        files = {path: path.stat().st_ino for path in self._root.rglob("*") if path.is_file()}
        return {str(path.relative_to(self._root)): self._contents.get(inode, b"") for path, inode in files.items()}

    def _durable(self, inode: int, name: str) -> list[tuple[str, int]]:
        if inode not in self._names:
            return [(name[1:], inode)] if inode in self._contents else []
        inside = self._names[inode].items()
        return [found for child, number in inside for found in self._durable(number, f"{name}/{child}")]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """One on which a run was written, with its images."""
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", disk.before(disk.fsync))
        for name in ("link", "replace", "unlink"):
            patched.setattr(os, name, disk.before(getattr(os, name)))
        patched.setattr(writer, "_AT_A_TIME", 1)  # so that the steps come in one order
        write(tmp_path / "disk" / "s", RUN, SHARD)
    return disk


def test_a_run_goes_on_from_what_the_disk_is_sure_to_hold(disk: Disk, tmp_path: Path) -> None:
    assert len(disk.images) > 50
    whole = tree(tmp_path / "disk" / "s")
    assert disk.least() == {f"s/{name}": content for name, content in whole.items()}  # nothing was left to chance
    for number, image in enumerate(disk.images):
        path = tmp_path / str(number) / "s"
        for name, content in image.items():
            file = tmp_path / str(number) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        if (path / LEDGER).exists():  # all that it names is there, with its content
            assert problems(TripleStore.open(path, unfinished=True)) == []
        assert run_again(path, RUN, SHARD) == whole
