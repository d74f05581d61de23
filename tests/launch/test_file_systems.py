"""Runs on file systems that lack something, and output folders that are moved and copied."""

import errno
import fcntl
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from tests.conftest import RUN, SMALL_IRP, Capture, Patch, Script, tree
from tests.waiting import waiting_irp


def test_neither_locks_nor_hard_links_are_needed(
    irp_run: Path, script: Script, tmp_path: Path, monkeypatch: Patch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    for module, name in ((fcntl, "flock"), (fcntl, "lockf"), (os, "link")):
        monkeypatch.setattr(module, name, refuse)
    assert script("irp", *SMALL_IRP, "--output", tmp_path) == 0
    assert tree(tmp_path / "irp" / RUN / "triples.zarr") == tree(irp_run / "triples.zarr")


def test_an_output_folder_is_copied_while_a_run_works_in_it_and_moved_when_it_is_complete(
    irp_run: Path, script: Script, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "original").mkdir()
    process = waiting_irp(30, tmp_path / "original")
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    assert script("irp", *SMALL_IRP, "--output", tmp_path / "copy") == 0
    assert tree(tmp_path / "copy" / "irp" / RUN / "triples.zarr") == tree(irp_run / "triples.zarr")
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join()
    (tmp_path / "copy").rename(tmp_path / "moved")
    capsys.readouterr()
    assert script("irp", *SMALL_IRP, "--output", tmp_path / "moved") == 0
    assert "1 run, 1 complete, 0 to run" in capsys.readouterr().err
