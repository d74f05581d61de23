"""What decides: criteria by name. A criterion scores every prunable parameter; higher is kept.

`criterion(model, mask, batches) -> scores`: the model's weights are those to be scored, `mask` has already been applied
to them, `batches` is an iterable of (inputs, targets); the scores are float32 (P,) in layout order, on the model's
device. The model is left as it was. Under `torch.distributed` each process passes its own batches and all get the
scores of them all.

A criterion that must know how many weights k are to be kept has `at(k)` instead, which is such a criterion. `select`
takes either and returns the mask.
"""

from collections.abc import Callable

from autosparse.criteria.base import Criterion, Targeted, select
from autosparse.criteria.erk import RandomERK
from autosparse.criteria.force import Force
from autosparse.criteria.grasp import GraSP
from autosparse.criteria.magnitude import magnitude
from autosparse.criteria.npb import NPB
from autosparse.criteria.random import UniformRandom
from autosparse.criteria.rounds import Rounds
from autosparse.criteria.snip import snip
from autosparse.criteria.synflow import dataflow, synflow
from autosparse.errors import unknown

__all__ = ["CRITERIA", "ONE_SHOT", "TARGETED", "Criterion", "Targeted", "make_criterion", "select"]

# name -> seed -> criterion; only what draws numbers looks at the seed
ONE_SHOT: dict[str, Callable[[int], Criterion]] = {
    "random": UniformRandom,
    "magnitude": lambda seed: magnitude,
    "snip": lambda seed: snip,
    "grasp": lambda seed: GraSP(),
}
TARGETED: dict[str, Callable[[int], Targeted]] = {
    "random-erk": RandomERK,
    "iterative-snip": lambda seed: Rounds(snip, 60),  # 60 rounds: de Jorge et al. 2021, as for FORCE
    "force": lambda seed: Force(),
    "synflow": lambda seed: Rounds(synflow, 100),  # Tanaka et al. 2020
    "dataflow": lambda seed: Rounds(dataflow, 100),
    "npb": NPB,
}
CRITERIA: dict[str, Callable[[int], Criterion | Targeted]] = {**ONE_SHOT, **TARGETED}


def make_criterion(name: str, seed: int = 0) -> Criterion | Targeted:
    """A criterion by name.

    Raises:
        UserError: an unknown name.
    """
    if name not in CRITERIA:
        raise unknown("criterion", name, CRITERIA)
    return CRITERIA[name](seed)
