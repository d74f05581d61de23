"""The three kinds of run: IRP makes triples, a fit makes a criterion, pruning makes results."""

from autosparse.study.runs.autos import FitRun, complete_store
from autosparse.study.runs.irp import IRPRun
from autosparse.study.runs.prune import PruneRun

__all__ = ["FitRun", "IRPRun", "PruneRun", "complete_store"]
