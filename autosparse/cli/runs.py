"""Watch, stop and resume runs: `autosparse runs status|logs|cancel|resume [RUN...]`."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from autosparse.cluster import status
from autosparse.config import Bounds, Config
from autosparse.errors import UserError
from autosparse.files import read_record

Runs = Annotated[tuple[Path, ...], tyro.conf.Positional]
_ACTIONS = ("status", "logs", "cancel", "resume")


@dataclass(frozen=True)
class _Action(Config):
    """An action on runs."""

    runs: Runs = (Path("runs"),)
    """Folders of runs, or folders that hold them."""


@dataclass(frozen=True)
class Status(_Action):
    """Print a table of runs.

    Exit codes: 0 all complete, 3 some wait or run, 4 some have failed or were stopped and none wait or run. Ctrl-C ends
    the live page with the code of the table shown last.
    """

    live: bool = False
    """A page instead of the table, kept up to date with all runs, also new ones, until nothing waits or runs; in a file
    or a pipe the table is printed again when more than the fraction done and the time left has changed."""

    def run(self) -> None:
        rows = status.watch(self.runs) if self.live else status.rows(status.find(self.runs))
        if not self.live:
            print(status.table(rows))
        for row in rows:
            if row["why"]:
                print(f"{row['state']}: {row['run']}: {row['why']}", file=sys.stderr)
        if any(row["state"] == "unknown" for row in rows):
            print(status.UNKNOWN, file=sys.stderr)
        if not status.ended(rows):
            sys.exit(3)
        if any(row["state"] != "complete" for row in rows):
            sys.exit(4)


@dataclass(frozen=True)
class Logs(_Action):
    """Print the last lines of each run's log."""

    rank: Annotated[int, Bounds(0)] = 0
    """The process whose log is shown."""
    lines: Annotated[int, Bounds(0)] = 20
    """Number of lines to show, counted from the end."""

    def run(self) -> None:
        for folder in status.find(self.runs):
            print(f"==> {folder / 'logs' / f'rank{self.rank}.log'}")
            if (lines := status.log_end(folder, self.lines, self.rank)) is not None:
                sys.stdout.writelines(lines)
            elif log := read_record(folder / "job.json").get("log"):
                print(f"not started; log: {log}")
            else:
                print("not started")


@dataclass(frozen=True)
class Cancel(_Action):
    """Stop what waits or runs."""

    def run(self) -> None:
        for folder in status.stop(status.find(self.runs)):
            print(folder)


@dataclass(frozen=True)
class Resume(_Action):
    """Give the commands that asked for the runs again, on this machine; complete runs are left alone."""

    def run(self) -> None:
        folders = status.find(self.runs)
        states = [row["state"] for row in status.rows(folders)]
        if "unknown" in states:
            raise UserError(f"{status.UNKNOWN}; try again")
        stopped = [folder for folder, state in zip(folders, states, strict=True) if state in status.ENDED[1:]]
        records = {path: read_record(path) for folder in stopped if (path := folder / "job.json").is_file()}
        if not records:
            print("nothing to resume", file=sys.stderr)
        for path, record in records.items():
            if not record:
                print(f"{path} is damaged: give the command of this run again yourself", file=sys.stderr)
        submissions = [record for record in records.values() if record]
        commands = {(tuple(_without_after(record["command"])), record["folder"]) for record in submissions}
        failed = 0
        for command, folder in sorted(commands):
            print(f"cd {shlex.quote(folder)} && python {shlex.join(command)}", file=sys.stderr)
            failed += subprocess.run([sys.executable, *command], cwd=folder).returncode != 0
        if failed:
            raise UserError(f"{failed} of {len(commands)} commands failed")


@dataclass(frozen=True)
class Arguments:
    """Watch, stop and resume runs.

    Examples:
      autosparse runs --live
      autosparse runs logs runs/irp --lines 50
      autosparse runs cancel runs/prune
    """

    action: tyro.conf.OmitSubcommandPrefixes[Status | Logs | Cancel | Resume]


def meant(args: Sequence[str]) -> list[str]:
    """Complete a command line without an action: `runs [--live] [FOLDER...]` is `runs status [--live] [FOLDER...]`."""
    bare = not args or args[0] == "--live" or (args[0] not in _ACTIONS and Path(args[0]).exists())
    return ["status", *args] if bare else list(args)


def main(a: Arguments) -> None:
    """Run the action."""
    a.action.run()


def _without_after(command: list[str]) -> list[str]:
    """Return a command without `--after JOBID...`: those jobs have ended, and Slurm may have forgotten them."""
    kept, dropping = list[str](), False
    for word in command:
        dropping = word.startswith("--after") or (dropping and not word.startswith("-"))
        kept += [word] * (not dropping)
    return kept
