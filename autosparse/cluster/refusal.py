"""What of a submission Slurm refuses: the options at fault, as they are spelled here, and what would be valid."""

import re
from collections.abc import Callable
from typing import NamedTuple

from autosparse.cluster import slurm
from autosparse.cluster.resources import DEFAULT_CPUS, Resources, spelled

_HARDWARE = ("nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "mem", "constraint", "partition")
# options of sbatch that ask for hardware, beside those that have a flag of their own
_FURTHER_HARDWARE = "gres|gpu|mem-|nodelist|mincpus|tmp|.*-per-|core|threads|contiguous|exclusive|switches"

# reasons for which a job would be pending for ever
_NEVER = re.compile(r"Partition(Config|TimeLimit|NodeLimit)|BadConstraints|Invalid(Account|QOS)|.*PerJob(Limit)?")


class _About(NamedTuple):
    """What a refusal is about."""

    words: str
    """A pattern of what Slurm says."""
    options: tuple[str, ...]
    """Fields of `Resources`."""
    further: str | None = None
    """A pattern of options of sbatch that `slurm` may hold."""
    valid: Callable[[Resources], str] = lambda resources: ""
    """What there is to choose from, or the command that says so."""


def _partitions(resources: Resources) -> str:
    return f"partitions: {', '.join(slurm.partitions())}"


def _nodes(resources: Resources) -> str:
    return "; ".join(slurm.hardware(resources.partition)) or "sinfo --Node --long shows the nodes"


def _limits(resources: Resources) -> str:
    return "; ".join(slurm.time_limits(resources.partition))


_ABOUTS = (
    _About(r"partition", ("partition",)),
    _About(r"partition (name|specified)", (), None, _partitions),
    _About(r"account", ("account",), None, lambda _: "see sacctmgr show associations user=$USER"),
    _About(r"qos", ("qos",), None, lambda _: "see sacctmgr show qos"),
    _About(r"memory|--mem\b|--mem-", ("mem",), "mem-", _nodes),
    _About(r"time ?limit", ("time", "partition"), None, _limits),
    _About(r"feature", ("constraint",), None, _nodes),
    _About(r"node name|node list", ("exclude",), "nodelist", lambda _: f"nodes: {', '.join(slurm.node_names())}"),
    _About(r"node count", ("nodes",), None, _nodes),
    _About(r"cpu count|processors", ("cpus_per_task", "tasks_per_node"), "mincpus|.*-per-|core|threads", _nodes),
    _About(r"gres|generic resource", ("gpus_per_node",), "gres|gpu|.*gpu", _nodes),
    _About(r"node configuration|PartitionConfig|BadConstraints", _HARDWARE, _FURTHER_HARDWARE, _nodes),
    _About(r"PartitionConfig", ("time",), None, _limits),
    _About(r"license", (), "licenses", lambda _: "see scontrol show licenses"),
    _About(r"reservation", (), "reservation", lambda _: "see scontrol show reservation"),
    _About(r"dependency", ("after",)),
)


def never_starts(reason: str) -> bool:
    """Whether a job that is pending for this reason would be so for ever."""
    return _NEVER.fullmatch(reason) is not None


def explained(reason: str, resources: Resources) -> str:
    """What Slurm says, the options that it is about with their values, and what is valid where that can be told."""
    about = [each for each in _ABOUTS if re.search(each.words, reason, re.IGNORECASE)]
    names = dict.fromkeys(name for each in about for name in each.options)
    used = {"nodes": 1, "gpus_per_node": resources.gpus(1), "cpus_per_task": DEFAULT_CPUS, "time": resources.minutes}
    values = {name: getattr(resources, name) or used.get(name) for name in names}
    said = [
        f"{spelled(name)} {' '.join(value) if isinstance(value, tuple) else value}"
        for name, value in values.items()
        if value
    ]
    further = _further(reason, [each.further for each in about if each.further], resources)
    if not said and not further:
        further = list(resources.slurm)
    if further:
        said.append(f"slurm {' '.join(further)}")
    valid = dict.fromkeys(found for each in about if (found := each.valid(resources)))
    there = "; ".join(filter(None, [", ".join(said), *valid]))
    return f"{reason} ({there})" if there else reason


def _further(reason: str, patterns: list[str], resources: Resources) -> list[str]:
    """Those of the options of sbatch that a refusal is about: by its kind, or as it names them."""
    named = set(re.findall(r"--([a-z][a-z-]*)", reason))
    return [
        text
        for text in resources.slurm
        if (key := text.lstrip("-").partition("=")[0]) in named or any(re.match(each, key) for each in patterns)
    ]
