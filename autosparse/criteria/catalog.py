"""Criteria by name; each is imported when it is asked for."""

from autosparse.config import CRITERIA
from autosparse.criteria.base import Criterion, Targeted
from autosparse.errors import unknown


def make_criterion(name: str, seed: int = 0) -> Criterion | Targeted:
    """A criterion by name; only what draws numbers looks at the seed.

    Raises:
        UserError: an unknown name.
    """
    match name:
        case "random":
            from autosparse.criteria.random import UniformRandom

            return UniformRandom(seed)
        case "random-erk":
            from autosparse.criteria.erk import RandomERK

            return RandomERK(seed)
        case "magnitude":
            from autosparse.criteria.magnitude import magnitude

            return magnitude
        case "snip":
            from autosparse.criteria.snip import snip

            return snip
        case "iterative-snip":
            from autosparse.criteria.rounds import Rounds
            from autosparse.criteria.snip import snip

            return Rounds(snip, 60)  # de Jorge et al. 2021, as for FORCE
        case "force":
            from autosparse.criteria.force import Force

            return Force()
        case "grasp":
            from autosparse.criteria.grasp import GraSP

            return GraSP()
        case "synflow":
            from autosparse.criteria.rounds import Rounds
            from autosparse.criteria.synflow import synflow

            return Rounds(synflow, 100)  # Tanaka et al. 2020
        case "dataflow":
            from autosparse.criteria.rounds import Rounds
            from autosparse.criteria.synflow import dataflow

            return Rounds(dataflow, 100)
        case "npb":
            from autosparse.criteria.npb import NPB

            return NPB(seed)
    raise unknown("criterion", name, CRITERIA)
