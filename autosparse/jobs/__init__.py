"""The kinds of run: IRP makes triples, a fit makes a criterion, pruning makes results."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.jobs.base import Setting, Tasked
    from autosparse.jobs.fit import FitRun
    from autosparse.jobs.irp import IRPRun
    from autosparse.jobs.prune import PruneRun

__all__ = ["FitRun", "IRPRun", "PruneRun", "Setting", "Tasked"]
__getattr__ = lazily(__name__)
