"""The learned criterion: a network that predicts survival from a parameter's initial value and gradient."""

from autosparse.autos.criterion import AutoSCriterion
from autosparse.autos.features import Features, Scale
from autosparse.autos.fit import FitConfig, fit, validate
from autosparse.autos.network import BACKBONES, AutoS

__all__ = ["BACKBONES", "AutoS", "AutoSCriterion", "Features", "FitConfig", "Scale", "fit", "validate"]
