"""Tables and figures of runs: `autosparse report runs --output report`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from autosparse import study
from autosparse.errors import UserError
from autosparse.files import check_writable
from autosparse.page import Document


@dataclass(frozen=True)
class Arguments:
    """Write index.html, results.csv, tables in Markdown and figures for a set of runs. Prints the page's path.

    Examples:
      autosparse report runs
      autosparse report runs/irp runs/prune --output report
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs, or folders that hold them."""
    output: Path = Path("report")
    """Folder to write to."""


def main(a: Arguments) -> None:
    """Write the report."""
    if not a.runs:
        raise UserError("which runs? give their folders: autosparse report runs --output report")
    check_writable(a.output, "output")
    document = Document(a.output)
    study.overview(document, a.runs)
    print(document.write())
    print("next: open it in a browser; autosparse serve shows it while runs work", file=sys.stderr)
