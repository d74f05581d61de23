"""Criteria by name as the tests run them: what holds of 100 rounds holds of 3."""

from dataclasses import replace

from autosparse.criteria import Criterion, Targeted, make_criterion
from autosparse.criteria.force import Force
from autosparse.criteria.rounds import Rounds

ROUNDS = 3


def quick(name: str, seed: int = 0) -> Criterion | Targeted:
    """A criterion of the package; one that scores in rounds has `ROUNDS` of them."""
    criterion = make_criterion(name, seed)
    return replace(criterion, rounds=ROUNDS) if isinstance(criterion, Rounds | Force) else criterion
