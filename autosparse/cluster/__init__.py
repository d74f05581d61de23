"""Many jobs, many processes: on Slurm, on this machine, or in this process. Knows nothing of pruning."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.cluster.job import Job
    from autosparse.cluster.profile import site_resources
    from autosparse.cluster.resources import Resources
    from autosparse.cluster.submit import launch

__all__ = ["Job", "Resources", "launch", "site_resources"]
__getattr__ = lazily(
    __name__,
    {
        "Job": "autosparse.cluster.job",
        "Resources": "autosparse.cluster.resources",
        "launch": "autosparse.cluster.submit",
        "site_resources": "autosparse.cluster.profile",
    },
)
