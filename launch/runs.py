"""Watch, stop and go on with runs: `python launch/runs.py status|logs|cancel|resume [RUN...]`."""

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
from autosparse.command import run
from autosparse.errors import UserError
from autosparse.files import read_json

Runs = Annotated[tuple[Path, ...], tyro.conf.Positional]


@dataclass(frozen=True)
class Status:
    """Print a table. Exit codes: 0 all complete, 3 some wait or run, 4 some have failed or were stopped and none wait
    or run."""

    runs: Runs = (Path("runs"),)
    """Folders of runs, or folders that hold them."""
    live: bool = False
    """Show it anew every two seconds until nothing waits or runs."""


@dataclass(frozen=True)
class Logs:
    """Print the last lines of each run's log."""

    runs: Runs = (Path("runs"),)
    """Folders of runs, or folders that hold them."""
    rank: int = 0
    """Of which process."""
    lines: int = 20
    """How many of the last lines."""


@dataclass(frozen=True)
class Cancel:
    """Stop what waits or runs."""

    runs: Runs = (Path("runs"),)
    """Folders of runs, or folders that hold them."""


@dataclass(frozen=True)
class Resume:
    """Give the commands again that asked for the runs; what is complete is left alone."""

    runs: Runs = (Path("runs"),)
    """Folders of runs, or folders that hold them."""


@dataclass(frozen=True)
class Arguments:
    """Watch, stop and go on with runs."""

    action: tyro.conf.OmitSubcommandPrefixes[Status | Logs | Cancel | Resume]


def main(a: Arguments) -> None:
    """Do what was asked for."""
    folders = status.find(a.action.runs)
    match a.action:
        case Status(live=live):
            _status(folders, live)
        case Logs(rank=rank, lines=lines):
            _logs(folders, rank, lines)
        case Cancel():
            for folder in status.stop(folders):
                print(folder)
        case Resume():
            _resume(folders)


def _status(folders: list[Path], live: bool) -> None:
    while True:
        rows = status.rows(folders)
        shown = _table(rows)
        print(f"\033[H\033[J{shown}" if live else shown, flush=True)
        states = {row["state"] for row in rows}
        if "unknown" in states:
            print(f"{status.SILENT}: what waits or runs there is not known", file=sys.stderr)
        ended = states <= set(status.ENDED)
        if ended or not live:
            break
        time.sleep(2)
    if not ended:
        sys.exit(3)
    if states != {"complete"}:
        sys.exit(4)


def _table(rows: list[status.Row]) -> str:
    """The columns in which anything stands."""
    columns = [[name, *(row[name] for row in rows)] for name in status.COLUMNS if any(row[name] for row in rows)]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _logs(folders: list[Path], rank: int, lines: int) -> None:
    if min(rank, lines) < 0:
        raise UserError(f"--rank and --lines must not be negative, got {min(rank, lines)}")
    for folder in folders:
        path = folder / "logs" / f"rank{rank}.log"
        print(f"==> {path}")
        if path.is_file():
            with path.open(errors="replace") as file:
                sys.stdout.writelines(deque(file, lines))
        elif (folder / "job.json").is_file() and (log := read_json(folder / "job.json")["log"]):
            print(f"not started; Slurm's log: {log}")
        else:
            print("not started")


def _resume(folders: list[Path]) -> None:
    states = [row["state"] for row in status.rows(folders)]
    if "unknown" in states:
        raise UserError(f"{status.SILENT}: what waits or runs there is not known; try again")
    stopped = [folder for folder, state in zip(folders, states, strict=True) if state in status.ENDED[1:]]
    asked = filter(Path.is_file, (folder / "job.json" for folder in stopped))
    commands = {(tuple(_without_after(job["command"])), job["folder"]) for job in map(read_json, asked)}
    if not commands:
        print("nothing to resume", file=sys.stderr)
    failed = 0
    for command, folder in sorted(commands):
        print(f"cd {shlex.quote(folder)} && python {shlex.join(command)}", file=sys.stderr)
        failed += subprocess.run([sys.executable, *command], cwd=folder).returncode != 0
    if failed:
        raise UserError(f"{failed} of {len(commands)} commands failed")


def _without_after(command: list[str]) -> list[str]:
    """A command without `--after JOBID...`: those jobs have ended, and Slurm may not know them any more."""
    kept, dropping = list[str](), False
    for word in command:
        dropping = word.startswith("--after") or (dropping and not word.startswith("-"))
        kept += [word] * (not dropping)
    return kept


if __name__ == "__main__":
    run(Arguments, main)
