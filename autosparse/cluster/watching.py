"""The commands by which a person watches, stops and goes on with runs: each is a dataclass of its options."""

import shlex
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from autosparse.cluster import status
from autosparse.config import Bounds, Config
from autosparse.errors import UserError
from autosparse.files import read_record

_PAUSE = 5.0  # seconds

Runs = Annotated[tuple[Path, ...], tyro.conf.Positional]


@dataclass(frozen=True)
class Status:
    """Print a table. Exit codes: 0 all complete, 3 some wait or run, 4 some have failed or were stopped and none wait
    or run."""

    runs: Runs = (Path("runs"),)
    """Folders of runs, or folders that hold them."""
    live: bool = False
    """Keep it up to date, every few seconds, until nothing waits or runs."""

    def run(self) -> None:
        folders = status.find(self.runs)
        while True:
            began = time.monotonic()
            rows = status.rows(folders)
            took = time.monotonic() - began
            shown = _table(rows)
            print(f"\033[H\033[J{shown}" if self.live else shown, flush=True)
            states = {row["state"] for row in rows}
            if "unknown" in states:
                print(f"{status.SILENT}: what waits or runs there is not known", file=sys.stderr)
            ended = states <= set(status.ENDED)
            if ended or not self.live:
                break
            time.sleep(max(_PAUSE, 10 * took))  # a Slurm that is slow is asked less
        if not ended:
            sys.exit(3)
        if states != {"complete"}:
            sys.exit(4)


@dataclass(frozen=True)
class Logs(Config):
    """Print the last lines of each run's log."""

    runs: Runs = (Path("runs"),)
    """Folders of runs, or folders that hold them."""
    rank: Annotated[int, Bounds(0)] = 0
    """The process whose log it is."""
    lines: Annotated[int, Bounds(0)] = 20
    """The number of lines that are shown, the last ones."""

    def run(self) -> None:
        folders = status.find(self.runs)
        for folder in folders:
            path = folder / "logs" / f"rank{self.rank}.log"
            print(f"==> {path}")
            if path.is_file():
                with path.open(errors="replace") as file:
                    sys.stdout.writelines(deque(file, self.lines))
            elif log := read_record(folder / "job.json").get("log"):
                print(f"not started; Slurm's log: {log}")
            else:
                print("not started")


@dataclass(frozen=True)
class Cancel:
    """Stop what waits or runs."""

    runs: Runs = (Path("runs"),)
    """Folders of runs, or folders that hold them."""

    def run(self) -> None:
        for folder in status.stop(status.find(self.runs)):
            print(folder)


@dataclass(frozen=True)
class Resume:
    """Give the commands again that asked for the runs; what is complete is left alone."""

    runs: Runs = (Path("runs"),)
    """Folders of runs, or folders that hold them."""

    def run(self) -> None:
        folders = status.find(self.runs)
        states = [row["state"] for row in status.rows(folders)]
        if "unknown" in states:
            raise UserError(f"{status.SILENT}: what waits or runs there is not known; try again")
        stopped = [folder for folder, state in zip(folders, states, strict=True) if state in status.ENDED[1:]]
        asked = [path for folder in stopped if (path := folder / "job.json").is_file()]
        jobs = [job for path in asked if (job := read_record(path))]
        commands = {(tuple(_without_after(job["command"])), job["folder"]) for job in jobs}
        if not asked:
            print("nothing to resume", file=sys.stderr)
        for path in asked:
            if not read_record(path):
                print(f"{path} is damaged: give the command of this run again yourself", file=sys.stderr)
        failed = 0
        for command, folder in sorted(commands):
            print(f"cd {shlex.quote(folder)} && python {shlex.join(command)}", file=sys.stderr)
            failed += subprocess.run([sys.executable, *command], cwd=folder).returncode != 0
        if failed:
            raise UserError(f"{failed} of {len(commands)} commands failed")


def _table(rows: list[status.Row]) -> str:
    """The columns in which anything stands."""
    columns = [[name, *(row[name] for row in rows)] for name in status.COLUMNS if any(row[name] for row in rows)]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _without_after(command: list[str]) -> list[str]:
    """A command without `--after JOBID...`: those jobs have ended, and Slurm may not know them any more."""
    kept, dropping = list[str](), False
    for word in command:
        dropping = word.startswith("--after") or (dropping and not word.startswith("-"))
        kept += [word] * (not dropping)
    return kept
