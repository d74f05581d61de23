"""Watch, stop and resume runs: `python launch/runs.py status|logs|cancel|resume [RUN...]`."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from autosparse.cluster.watching import Cancel, Logs, Resume, Status


@dataclass(frozen=True)
class Arguments:
    """Watch, stop and resume runs."""

    action: tyro.conf.OmitSubcommandPrefixes[Status | Logs | Cancel | Resume]


def meant(args: Sequence[str]) -> list[str]:
    """A command line with the action that it leaves out: `runs [--live]` is `runs status [--live]`."""
    return ["status", *args] if not args or args[0] == "--live" else list(args)


def main(a: Arguments) -> None:
    """Do what was asked for."""
    a.action.run()
