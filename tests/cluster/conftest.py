import os
from pathlib import Path

import pytest

from autosparse.cluster import interruption


class Commands:
    """Slurm's commands as programs that only answer, first on PATH; a real Slurm is for tests/slurm."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls_file = folder / "calls"
        for name, text in {
            "sinfo": "true",
            "srun": "true",
            "sbatch": "echo Submitted batch job 4242",
            "squeue": "true",
            "scancel": "true",
            "scontrol": "true",
        }.items():
            self.answer(name, text)

    def answer(self, name: str, script: str) -> None:
        """Let a command run this shell script."""
        program = self.folder / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.calls_file}"\n{script}\n')
        program.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        """How a command was called until now."""
        if not self.calls_file.exists():
            return []
        return [line for line in self.calls_file.read_text().splitlines() if line.split()[0] == name]


@pytest.fixture
def commands(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Commands:
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Commands(folder)


@pytest.fixture(autouse=True)
def asked_to_stop_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test asks of this process is forgotten after it."""
    monkeypatch.setattr(interruption, "_received", None)
    monkeypatch.setattr(interruption, "_lost", False)
