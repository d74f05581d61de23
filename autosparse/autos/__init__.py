"""The learned criterion: a network that predicts survival from a parameter's initial value and gradient."""

from autosparse.autos.autos import AutoS
from autosparse.autos.backbones import BACKBONES
from autosparse.autos.criterion import AutoSCriterion
from autosparse.autos.evaluate import tabulate_held_out, validate
from autosparse.autos.features import Features, Scale
from autosparse.autos.fit import fit
from autosparse.autos.samples import Samples
from autosparse.autos.stored import StoredSamples
from autosparse.autos.table import Surface
from autosparse.autos.trajectory import States, TrajectorySamples, states_of, stored_states_of

__all__ = [
    "BACKBONES",
    "AutoS",
    "AutoSCriterion",
    "Features",
    "Samples",
    "Scale",
    "States",
    "StoredSamples",
    "Surface",
    "TrajectorySamples",
    "fit",
    "states_of",
    "stored_states_of",
    "tabulate_held_out",
    "validate",
]
