"""Watch, stop and go on with runs: `python launch/runs.py status|logs|cancel|resume [RUN...]`."""

from dataclasses import dataclass

import tyro

from autosparse.cluster.watching import Cancel, Logs, Resume, Status


@dataclass(frozen=True)
class Arguments:
    """Watch, stop and go on with runs."""

    action: tyro.conf.OmitSubcommandPrefixes[Status | Logs | Cancel | Resume]


def main(a: Arguments) -> None:
    """Do what was asked for."""
    a.action.run()
