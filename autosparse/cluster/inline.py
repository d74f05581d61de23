"""Jobs run in this process, one after the other."""

from pathlib import Path

from autosparse.cluster import provenance
from autosparse.cluster.attempt import Attempt
from autosparse.cluster.job import describe
from autosparse.cluster.outcome import Failure, say
from autosparse.cluster.resources import Resources
from autosparse.cluster.stage import Stage, blocked


def run(stages: list[Stage], resources: Resources, root: Path) -> list[Failure]:
    """Run the jobs of the stages, heads first; returns those that failed and those that waited for them."""
    provenance.write_plan(job for stage in stages for job in stage.jobs)
    failures, failed, number = list[Failure](), set[str](), 0
    total = sum(len(stage.jobs) for stage in stages)
    for stage in stages:
        found = blocked(stage, failed)
        for job in stage.jobs if not found else ():
            number += 1
            say(f"[{number}/{total}] {job.folder}")
            try:
                Attempt(job, resources.cpus_per_task)()
            except Exception as error:  # The other jobs continue; the traceback is in the run's log.
                found.append(Failure(job, describe(error)))
        if found:
            failed.add(stage.name)
            failures += found
    return failures
