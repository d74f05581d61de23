"""The learned criterion: a network that predicts survival from a parameter's initial value and gradient."""

from autosparse.autos.criterion import AutoSCriterion
from autosparse.autos.features import Features, Scale
from autosparse.autos.fit import FitConfig, fit, tabulate_held_out, validate
from autosparse.autos.network import BACKBONES, AutoS
from autosparse.autos.surface import Surface

__all__ = [
    "BACKBONES",
    "AutoS",
    "AutoSCriterion",
    "Features",
    "FitConfig",
    "Scale",
    "Surface",
    "fit",
    "tabulate_held_out",
    "validate",
]
