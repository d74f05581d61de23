"""Criteria that look ahead: they train some steps from the initial weights under the mask of each round, then rewind.

A probe is the first K steps of a training run; the criterion scores its columns. A `Learner` trains.
"""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.lookahead.learners import OptimizerFactory, OptimizerLearner, RecipeLearner
    from autosparse.lookahead.probe import LACKING, Learner, Probe, look_ahead

__all__ = [
    "LACKING",
    "Learner",
    "OptimizerFactory",
    "OptimizerLearner",
    "Probe",
    "RecipeLearner",
    "look_ahead",
]
__getattr__ = lazily(__name__)
