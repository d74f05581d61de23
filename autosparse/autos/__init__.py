"""The learned criterion: a network that predicts survival from a parameter's initial value and gradient."""

from autosparse.autos.autos import AutoS
from autosparse.autos.backbones import BACKBONES
from autosparse.autos.criterion import AutoSCriterion
from autosparse.autos.evaluate import tabulate_held_out, tabulate_states, validate, validate_states
from autosparse.autos.features import Features, Scale
from autosparse.autos.fit import FitConfig, fit
from autosparse.autos.table import Surface
from autosparse.autos.trajectory import States, states_of

__all__ = [
    "BACKBONES",
    "AutoS",
    "AutoSCriterion",
    "Features",
    "FitConfig",
    "Scale",
    "States",
    "Surface",
    "fit",
    "states_of",
    "tabulate_held_out",
    "tabulate_states",
    "validate",
    "validate_states",
]
