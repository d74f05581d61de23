import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autosparse.files import read_json, remove_unfinished, replacing, write_json
from tests.conftest import tree
from tests.world import FORKS


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"b": [1, 2], "a": "θ"})
    assert read_json(path) == {"b": [1, 2], "a": "θ"}
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of what")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "before"


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("a"),
    "torch": lambda path: torch.save({"a": torch.zeros(3)}, path),
    "safetensors": lambda path: save_file({"a": torch.zeros(3)}, path),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_a_file_may_be_read_by_whom_the_umask_lets(writer: str, umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        for _ in range(2):  # new, and in place of one
            with replacing(tmp_path / "a") as temporary:
                WRITERS[writer](temporary)
            assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask
    finally:
        os.umask(before)


def die_writing(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half of wh")
        temporary.with_name(".tmp-of-its-own").write_text("half of wh")  # as safetensors does
        os._exit(0)


def test_what_a_killed_writer_has_left_is_removed(tmp_path: Path) -> None:
    """By the next writer of the file, or by who alone writes to the folder."""
    for name in "abc":
        killed = FORKS.Process(target=die_writing, args=(tmp_path / name,))
        killed.start()
        killed.join(60)
    assert len(tree(tmp_path)) == 6
    write_json(tmp_path / "a", 1)
    remove_unfinished(tmp_path, but="c")
    write_json(tmp_path / "c", 3)
    assert sorted(os.listdir(tmp_path)) == ["a", "c"]
