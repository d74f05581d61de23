"""A disk that fills up under a run: nothing is lost, and a line says which file there was no room for."""

import errno
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from autosparse import files
from autosparse.cluster import Resources, launch, records
from tests.cluster.jobs import Note
from tests.commands import Commands
from tests.conftest import RUN, SMALL_IRP, Capture, Patch, Script, tree
from tests.mounts import mounted, remount

FULL = "No space left on device"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted("size=8k", folder):
        pytest.skip("only root may mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_run_on_a_disk_that_is_full_again_and_again(
    disk: Path, irp_run: Path, script: Script, monkeypatch: Patch, capfd: Capture
) -> None:
    git = records._git  # A checkout with changes would need more room.
    monkeypatch.setattr(records, "_git", lambda *words: None if words[0] == "diff" else git(*words))
    full, run = 0, disk / "irp" / RUN
    for size in (8, 16, 24, 44, 252, 460, 660, 700, 720, 1000):
        remount(f"size={size}k", disk)
        capfd.readouterr()
        code = script("irp", *SMALL_IRP, "--output", disk)
        said = capfd.readouterr().err
        assert "Traceback" not in said
        assert "Logging error" not in said
        if code == 0:
            break
        full += 1
        failed = [line for line in said.splitlines() if line.startswith(("failed: ", "error: "))]
        assert re.search(rf"{FULL}: '?{disk}/.+", failed[0]), said
        if (run / "status.json").is_file():
            assert json.loads((run / "status.json").read_text())["state"] == "failed"
        assert not [name for name in tree(disk) if name.endswith(".tmp")]
    assert full > 5
    assert tree(run / "triples.zarr") == tree(irp_run / "triples.zarr")
    assert json.loads((run / "status.json").read_text())["state"] == "complete"


def test_what_is_submitted_when_the_disk_is_full_is_cancelled(
    tmp_path: Path, commands: Commands, monkeypatch: Patch
) -> None:
    def no_room(path: Path, text: str) -> None:
        if path.name == "job.json":
            raise OSError(errno.ENOSPC, FULL, str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    monkeypatch.setattr(files, "write_text", no_room)
    with pytest.raises(OSError, match=f"{FULL}: .*job.json"):
        launch([Note(tmp_path, "a")], Resources(cluster="slurm"), tmp_path, "notes")
    assert commands.calls("scancel") == ["scancel 4242"]
    assert not (tmp_path / "submitted").exists()
