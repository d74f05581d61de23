"""Criteria by name as the tests run them: what holds of 100 rounds holds of 3."""

from dataclasses import replace

from torch import Tensor, nn

from autosparse.criteria import Chooser, Criterion, Scoring, make_criterion, select
from autosparse.criteria.rounds import Rounds
from autosparse.criteria.snip import Force
from autosparse.pruning import Layout, Mask

ROUNDS = 3
MECHANISMS = ("snip", "grasp", "prospr", "synflow", "dataflow", "npb", "ntk-sap", "px")
"""A criterion of each kind of pass through a network."""


def quick(name: str, seed: int = 0) -> Criterion | Chooser:
    """Return a built-in criterion, in `ROUNDS` rounds if it works in rounds."""
    criterion = make_criterion(name, seed)
    return replace(criterion, rounds=ROUNDS) if isinstance(criterion, Rounds | Force) else criterion


def scores_or_mask(criterion: Criterion | Chooser, model: nn.Module, scoring: Scoring, k: int) -> Tensor:
    """Return the scores of a whole network or, of a criterion in rounds, those of one; else the mask as 0 and 1."""
    full = Mask.full(Layout.of(model))
    if isinstance(criterion, Rounds):
        criterion = criterion.criterion
    if isinstance(criterion, Chooser):
        return select(criterion, model, full, scoring, k).kept.float()
    return criterion(model, full, scoring)
