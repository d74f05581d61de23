"""Many jobs, many processes: on Slurm, on this machine, or in this process. Knows nothing of pruning."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.cluster.job import Job
    from autosparse.cluster.profile import site_resources
    from autosparse.cluster.resources import Resources
    from autosparse.cluster.stage import Stage
    from autosparse.cluster.submit import launch, launch_graph

__all__ = ["Job", "Resources", "Stage", "launch", "launch_graph", "site_resources"]
__getattr__ = lazily(
    __name__,
    {
        "Job": "autosparse.cluster.job",
        "Resources": "autosparse.cluster.resources",
        "Stage": "autosparse.cluster.stage",
        "launch": "autosparse.cluster.submit",
        "launch_graph": "autosparse.cluster.submit",
        "site_resources": "autosparse.cluster.profile",
    },
)
