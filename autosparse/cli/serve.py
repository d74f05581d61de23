"""A web page that follows runs: `python launch/serve.py runs`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from autosparse.cluster.poll import Poll
from autosparse.cluster.serve import serve
from autosparse.cluster.watching import Runs
from autosparse.config import Bounds, Config


@dataclass(frozen=True)
class Arguments(Config):
    """Show the state of runs as a web page that updates by itself. Prints its address; Ctrl-C ends it.

    The page is for browsers on this machine: `ssh -L 8642:127.0.0.1:8642 MACHINE` brings it to another. It changes
    nothing; everybody with an account on this machine can read it.
    """

    runs: Runs = (Path("runs"),)
    """Folders of runs, or folders that hold them."""
    port: Annotated[int, Bounds(0, 65535)] = 8642
    """Where it listens; 0 for any free port."""


def main(a: Arguments) -> None:
    """Serve the page."""
    serve(Poll(a.runs), a.port)
