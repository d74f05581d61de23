"""The report of a graph of runs, as its last job."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from autosparse.cluster import Job
from autosparse.study import page


@dataclass(frozen=True)
class ReportRun(Job):
    """Tables and figures of runs, in `output/report`; written anew each time it is asked for."""

    output: Path
    runs: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        return self.output / "report"

    def config(self) -> dict[str, Any]:
        return {"kind": "report"}

    def is_complete(self) -> bool:
        return False

    def run(self, accelerator: Accelerator) -> None:
        if accelerator.is_main_process:
            page.write(list(self.runs), self.folder)
        accelerator.wait_for_everyone()
