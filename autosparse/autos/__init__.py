"""The learned criterion: a network that predicts survival from a parameter's initial value and gradient."""

from autosparse.autos.autos import AutoS
from autosparse.autos.backbones import BACKBONES
from autosparse.autos.criterion import AutoSCriterion
from autosparse.autos.features import Features, scale_of_store
from autosparse.autos.fit import fit, validate
from autosparse.autos.iterations import measure_iterations, read_iterations
from autosparse.autos.lookup_table import LookupTable
from autosparse.autos.samples import IterationSamples, RunSample, Samples, StoredSamples
from autosparse.autos.tabulate import tabulate, tabulate_held_out

__all__ = [
    "BACKBONES",
    "AutoS",
    "AutoSCriterion",
    "Features",
    "IterationSamples",
    "LookupTable",
    "RunSample",
    "Samples",
    "StoredSamples",
    "fit",
    "measure_iterations",
    "read_iterations",
    "scale_of_store",
    "tabulate",
    "tabulate_held_out",
    "validate",
]
