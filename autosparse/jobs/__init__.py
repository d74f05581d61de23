"""The kinds of run: IRP makes triples, a fit makes a criterion, pruning makes results."""

from autosparse.jobs.base import TaskArguments, TrainingOptions
from autosparse.jobs.fit import FitRun
from autosparse.jobs.irp import IRPRun
from autosparse.jobs.prune import PruneRun

__all__ = ["FitRun", "IRPRun", "PruneRun", "TaskArguments", "TrainingOptions"]
