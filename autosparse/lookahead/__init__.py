"""Looking ahead: criteria that train some steps from the initial weights under the mask of each round, then rewind.

A probe is the first K steps of a training; what it sees of each parameter is what is scored. What trains is the
`learner` of the batches.
"""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.lookahead.criteria import ROUNDS, make_look_ahead
    from autosparse.lookahead.learners import OptimizerFactory, OptimizerLearner, RecipeLearner
    from autosparse.lookahead.probe import LACKING, Learner, Probe, look_ahead

__all__ = [
    "LACKING",
    "ROUNDS",
    "Learner",
    "OptimizerFactory",
    "OptimizerLearner",
    "Probe",
    "RecipeLearner",
    "look_ahead",
    "make_look_ahead",
]
__getattr__ = lazily(__name__)
