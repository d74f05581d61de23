"""The kinds of run: IRP makes triples, a fit makes a criterion, pruning makes results, a report shows them."""

from autosparse.study.runs.autos import FitRun
from autosparse.study.runs.irp import IRPRun
from autosparse.study.runs.prune import PruneRun
from autosparse.study.runs.report import ReportRun

__all__ = ["FitRun", "IRPRun", "PruneRun", "ReportRun"]
