from pathlib import Path


class Commands:
    """Slurm's commands as programs that only answer, first on PATH; a real Slurm is for tests/slurm."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls_file = folder / "calls"
        for name in ("sinfo", "srun", "squeue", "scancel", "scontrol"):
            self.answer(name, "true")
        self.answer("sbatch", "echo Submitted batch job 4242")

    def answer(self, name: str, script: str) -> None:
        """Let a command run this shell script."""
        program = self.folder / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.calls_file}"\n{script}\n')
        program.chmod(0o755)

    def number_jobs(self, after: int = 0) -> None:
        """Let sbatch number its jobs, from the next number on."""
        file = self.folder / "number"
        file.write_text(str(after))
        self.answer("sbatch", f'n=$(($(cat "{file}") + 1)); echo $n >"{file}"; echo Submitted batch job $n')

    def calls(self, name: str) -> list[str]:
        """How a command was called until now."""
        if not self.calls_file.exists():
            return []
        return [line for line in self.calls_file.read_text().splitlines() if line.split()[0] == name]
