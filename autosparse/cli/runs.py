"""Watch, stop and resume runs: `python launch/runs.py status|logs|cancel|resume [RUN...]`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from autosparse.cluster.watching import Cancel, Logs, Resume, Status

_ACTIONS = ("status", "logs", "cancel", "resume")


@dataclass(frozen=True)
class Arguments:
    """Watch, stop and resume runs."""

    action: tyro.conf.OmitSubcommandPrefixes[Status | Logs | Cancel | Resume]


def meant(args: Sequence[str]) -> list[str]:
    """Complete a command line without an action: `runs [--live] [FOLDER...]` is `runs status [--live] [FOLDER...]`."""
    bare = not args or args[0] == "--live" or (args[0] not in _ACTIONS and Path(args[0]).exists())
    return ["status", *args] if bare else list(args)


def main(a: Arguments) -> None:
    """Do what was asked for."""
    a.action.run()
