"""The learned criterion: a network that predicts survival from a parameter's initial value and gradient."""

from autosparse.autos.criterion import AutoSCriterion
from autosparse.autos.features import Features, Scale
from autosparse.autos.fit import FitConfig, fit
from autosparse.autos.held_out import tabulate_held_out, tabulate_states, validate, validate_states
from autosparse.autos.network import BACKBONES, AutoS
from autosparse.autos.states import States, states_of
from autosparse.autos.surface import Surface

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
