"""What an experiment consists of: parts, each of which names the runs that it needs and writes itself from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from autosparse.cluster import Job, Stage
from autosparse.jobs import FitRun, IRPRun, PruneRun
from autosparse.study.document import Document


class Part(Protocol):
    """A table or figure."""

    def jobs(self) -> list[Job]:
        """The runs that it needs, and those that they need; in any order, some perhaps twice."""

    def write(self, document: Document) -> None:
        """Add it to a report; all its runs are complete."""


@dataclass(frozen=True)
class Method:
    """A row of a table of accuracies.

    Attributes:
        label: its name there.
        by: a criterion's name, a fit of AutoS, or the runs of iterative pruning whose own masks are shown.
        sources: the runs of IRP that a fit needs.
        paper: the paper's accuracies in per cent, by sparsity.
    """

    label: str
    by: str | FitRun | tuple[IRPRun, ...]
    sources: tuple[IRPRun, ...] = ()
    paper: dict[float, float] = field(default_factory=dict)


def graph(parts: Sequence[Part]) -> list[Stage]:
    """The stages that make the runs of parts, each run once."""
    jobs = {job.folder: job for part in parts for job in part.jobs()}
    pruned = [job for job in jobs.values() if isinstance(job, PruneRun)]
    found = [
        Stage("irp", tuple(job for job in jobs.values() if isinstance(job, IRPRun))),
        Stage("autos", tuple(job for job in jobs.values() if isinstance(job, FitRun)), after=("irp",)),
        Stage("prune", tuple(job for job in pruned if not job.learned)),
        Stage("prune-autos", tuple(job for job in pruned if job.learned), after=("autos",)),
    ]
    return [stage for stage in found if stage.jobs]
