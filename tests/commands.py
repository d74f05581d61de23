"""Slurm's commands as programs that only answer; a real Slurm is for tests/slurm."""

from pathlib import Path


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
