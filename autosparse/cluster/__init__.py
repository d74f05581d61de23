"""Jobs and their processes: on Slurm, on this machine, or in this process. Nothing here concerns pruning."""

from autosparse.cluster.job import Job, Stage
from autosparse.cluster.launcher import launch, launch_graph, say_next
from autosparse.cluster.resources import Resources

__all__ = ["Job", "Resources", "Stage", "launch", "launch_graph", "say_next"]
