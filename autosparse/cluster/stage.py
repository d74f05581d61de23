"""A graph of jobs: stages, each after those whose output it needs."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from autosparse.cluster.job import Job
from autosparse.cluster.outcome import Failure


@dataclass(frozen=True)
class Stage:
    """Jobs that need nothing of one another: one array on Slurm.

    Attributes:
        name: in the queue, and for the stages that come after; unique in its graph.
        jobs: the grid.
        after: names of the stages, earlier in the list, that must have ended well before any of the jobs starts.
        single: its jobs have no use for more than one process.
    """

    name: str
    jobs: tuple[Job, ...]
    after: tuple[str, ...] = ()
    single: bool = False


def blocked(stage: Stage, failed: Collection[str]) -> list[Failure]:
    """The failures of a stage's jobs, one of whose predecessors has failed; none if none has."""
    heads = [name for name in stage.after if name in failed]
    return [Failure(job, f"not started, as {heads[0]} failed") for job in stage.jobs] if heads else []


def left(stages: Sequence[Stage], todo: Iterable[Job]) -> list[Stage]:
    """The graph of those jobs alone: without stages that have none, which nobody waits for."""
    wanted = {job.folder for job in todo}
    kept = [replace(stage, jobs=tuple(job for job in stage.jobs if job.folder in wanted)) for stage in stages]
    names = {stage.name for stage in kept if stage.jobs}
    return [replace(stage, after=tuple(name for name in stage.after if name in names)) for stage in kept if stage.jobs]
