"""Watch, stop and go on with runs: `python launch/runs.py status|logs|cancel|resume [RUN...]`."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from autosparse.command import run
from autosparse.errors import UserError
from autosparse.files import read_json
from autosparse.study import watch


@dataclass(frozen=True)
class Arguments:
    """Watch, stop and go on with runs.

    Exit codes of status: 0 all complete, 3 some wait or run, 4 some have failed or were stopped and none wait or run.
    """

    action: Annotated[Literal["status", "logs", "cancel", "resume"], tyro.conf.Positional]
    """status: a table. logs: the last lines of each run's log. cancel: stop what waits or runs.
    resume: give the commands again that asked for the runs; what is complete is left alone."""
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs"),)
    """Folders of runs, or folders that hold them."""
    live: bool = False
    """status: show it anew every two seconds until nothing waits or runs."""
    rank: int = 0
    """logs: of which process."""
    lines: int = 20
    """logs: how many of the last lines."""


def main(a: Arguments) -> None:
    """Do what was asked for."""
    folders = watch.find(a.runs)
    {"status": _status, "logs": _logs, "cancel": _cancel, "resume": _resume}[a.action](a, folders)


def _status(a: Arguments, folders: list[Path]) -> None:
    while True:
        table = watch.status(folders)
        shown = table.loc[:, (table != "").any()].to_string(index=False)
        print(f"\033[H\033[J{shown}" if a.live else shown, flush=True)
        ended = table["state"].isin(watch.ENDED)
        if ended.all() or not a.live:
            break
        time.sleep(2)
    if not ended.all():
        sys.exit(3)
    if (table["state"] != "complete").any():
        sys.exit(4)


def _logs(a: Arguments, folders: list[Path]) -> None:
    for folder in folders:
        path = folder / "logs" / f"rank{a.rank}.log"
        print(f"==> {path}")
        if path.is_file():
            print("\n".join(path.read_text(errors="replace").splitlines()[-a.lines :]))
        elif (folder / "job.json").is_file() and (log := read_json(folder / "job.json")["log"]):
            print(f"not started; Slurm's log: {log}")
        else:
            print("not started")


def _cancel(a: Arguments, folders: list[Path]) -> None:
    for folder in watch.stop(folders):
        print(folder)


def _resume(a: Arguments, folders: list[Path]) -> None:
    table = watch.status(folders)
    waiting = table["state"].isin(("failed", "killed", "interrupted", "not started")).tolist()
    asked = [folder / "job.json" for folder, wanted in zip(folders, waiting, strict=True) if wanted]
    commands = {(tuple(job["command"]), job["folder"]) for job in map(read_json, filter(Path.is_file, asked))}
    if not commands:
        print("nothing to resume", file=sys.stderr)
    failed = 0
    for command, folder in sorted(commands):
        print(f"cd {folder} && python {' '.join(command)}", file=sys.stderr)
        failed += subprocess.run([sys.executable, *command], cwd=folder).returncode != 0
    if failed:
        raise UserError(f"{failed} of {len(commands)} commands failed")


if __name__ == "__main__":
    run(Arguments, main)
