"""Runs on file systems that lack something, and output folders that are moved and copied."""

import errno
import fcntl
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autosparse.cluster.progress import Progress
from autosparse.files import read_record
from tests.conftest import RUN, SMALL_IRP, run_script, tree
from tests.waiting import waiting_irp
from tests.world import world

Script = Callable[..., int]


def test_neither_locks_nor_hard_links_are_needed(
    irp_run: Path, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    for module, name in ((fcntl, "flock"), (fcntl, "lockf"), (os, "link")):
        monkeypatch.setattr(module, name, refuse)
    assert script("irp", *SMALL_IRP, "--output", tmp_path) == 0
    assert tree(tmp_path / "irp" / RUN / "triples.zarr") == tree(irp_run / "triples.zarr")


def test_an_output_folder_is_copied_while_a_run_works_in_it_and_moved_when_it_is_complete(
    irp_run: Path, script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    assert "1 runs, 1 complete, 0 to run" in capsys.readouterr().err


def starved(output: Path) -> int:
    """A run whose process gets no more memory after some steps."""
    go_on, done = Progress.update, 0

    def update(progress: Progress, steps: int, note: str = "") -> None:
        nonlocal done
        go_on(progress, steps, note)
        done += steps
        if done == 30:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(),) * 2)
            torch.zeros(1 << 28)

    Progress.update = update
    return run_script("irp", *SMALL_IRP, "--output", str(output))


def test_a_run_that_gets_no_memory_fails_and_goes_on_where_there_is_more(
    irp_run: Path, script: Script, tmp_path: Path
) -> None:
    assert world(1, starved, tmp_path) == [2]
    status = read_record(tmp_path / "irp" / RUN / "status.json")
    assert status["state"] == "failed"
    assert "memory" in status["why"]
    assert script("irp", *SMALL_IRP, "--output", tmp_path) == 0
    assert tree(tmp_path / "irp" / RUN / "triples.zarr") == tree(irp_run / "triples.zarr")
