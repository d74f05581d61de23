"""The report of a graph of runs, as its last job."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from autosparse.cluster import Job
from autosparse.study import page


def is_newer(report: Path, runs: Iterable[Path]) -> bool:
    """Whether a report is there and was written after each of the runs said that it is complete."""
    states = [run / "status.json" for run in runs]
    page = report / "index.html"
    if not page.is_file() or not all(state.is_file() for state in states):
        return False
    return page.stat().st_mtime_ns >= max(state.stat().st_mtime_ns for state in states)


@dataclass(frozen=True)
class ReportRun(Job):
    """Tables and figures of runs, in `output/report`."""

    output: Path
    runs: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        return self.output / "report"

    def config(self) -> dict[str, Any]:
        return {"kind": "report"}

    def is_complete(self) -> bool:
        return is_newer(self.folder, self.runs)

    def run(self, accelerator: Accelerator) -> None:
        if accelerator.is_main_process:
            page.write(list(self.runs), self.folder)
        accelerator.wait_for_everyone()
