"""Criteria by name; each is imported when it is asked for."""

from functools import partial

from autosparse.config import CRITERIA, check_batch_norm
from autosparse.criteria.base import Criterion, Targeted
from autosparse.errors import unknown


def make_criterion(name: str, seed: int = 0, batch_norm: str = "batch") -> Criterion | Targeted:
    """A criterion by name; only what draws numbers looks at the seed.

    Args:
        name: one of `CRITERIA`.
        seed: of what it draws.
        batch_norm: see `criteria.gradient.scoring_mode`; other than `batch` for criteria in `BY_LOSS` alone.

    Raises:
        UserError: an unknown name, or a criterion that has no such mode of batch norm.
    """
    check_batch_norm(name, batch_norm)
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

            return snip if batch_norm == "batch" else partial(snip, batch_norm=batch_norm)
        case "iterative-snip":
            from autosparse.criteria.rounds import Rounds
            from autosparse.criteria.snip import snip

            return Rounds(partial(snip, batch_norm=batch_norm), 60)  # de Jorge et al. 2021, as for FORCE
        case "force":
            from autosparse.criteria.force import Force

            return Force(batch_norm=batch_norm)
        case "grasp":
            from autosparse.criteria.grasp import GraSP

            return GraSP(batch_norm=batch_norm)
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
        case "npb-tiny-imagenet":
            from autosparse.criteria.npb import NPB

            return NPB.tiny_imagenet(seed)
        case "prospr" | "prospr-first-order":
            from autosparse.criteria.prospr import ProsPr

            return ProsPr(first_order=name == "prospr-first-order", batch_norm=batch_norm)
        case "ntk-sap":
            from autosparse.criteria.ntk_sap import NTKSAP
            from autosparse.criteria.rounds import Rounds

            return Rounds(NTKSAP(seed), 20)  # Wang et al. 2023
        case "px":
            from autosparse.criteria.px import px
            from autosparse.criteria.rounds import Rounds

            return Rounds(px, 100)  # Iurada et al. 2024
    raise unknown("criterion", name, CRITERIA)
