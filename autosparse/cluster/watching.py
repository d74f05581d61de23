"""The commands by which a person watches, stops and goes on with runs: each is a dataclass of its options."""

import shlex
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from autosparse.cluster import status
from autosparse.cluster.poll import Poll
from autosparse.config import Bounds, Config
from autosparse.errors import UserError
from autosparse.files import read_record

Runs = Annotated[tuple[Path, ...], tyro.conf.Positional]


@dataclass(frozen=True)
class Status:
    """Print a table. Exit codes: 0 all complete, 3 some wait or run, 4 some have failed or were stopped and none wait
    or run. Ctrl-C ends --live with the code of what it showed last."""

    runs: Runs = (Path("runs"),)
    """Folders of runs, or folders that hold them."""
    live: bool = False
    """A page in place of the table, kept up to date with all runs there, also new ones, until nothing waits or runs;
    in a file or a pipe the table is printed again when more than the share done and the time left has changed."""

    def run(self) -> None:
        if self.live:
            from autosparse.cluster.live import watch  # whoever looks once does not wait for rich

            rows = watch(Poll(self.runs))
        else:
            rows = status.rows(status.find(self.runs))
            print(status.table(rows))
        for row in rows:
            if row["why"]:
                print(f"{row['state']}: {row['run']}: {row['why']}", file=sys.stderr)
        if any(row["state"] == "unknown" for row in rows):
            print(f"{status.SILENT}: what waits or runs there is not known", file=sys.stderr)
        if not status.ended(rows):
            sys.exit(3)
        if any(row["state"] != "complete" for row in rows):
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
    """Run the commands again that asked for the runs, here; what is complete is left alone."""

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


def _without_after(command: list[str]) -> list[str]:
    """A command without `--after JOBID...`: those jobs have ended, and Slurm may not know them any more."""
    kept, dropping = list[str](), False
    for word in command:
        dropping = word.startswith("--after") or (dropping and not word.startswith("-"))
        kept += [word] * (not dropping)
    return kept
