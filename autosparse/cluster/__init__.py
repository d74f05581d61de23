"""Many jobs, many processes: on Slurm, on this machine, or in this process. Knows nothing of pruning."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.cluster.job import Job
    from autosparse.cluster.profile import site_resources
    from autosparse.cluster.resources import Resources
    from autosparse.cluster.runner import launch, launch_graph
    from autosparse.cluster.stage import Stage

__all__ = ["Job", "Resources", "Stage", "launch", "launch_graph", "site_resources"]
__getattr__ = lazily(__name__)
