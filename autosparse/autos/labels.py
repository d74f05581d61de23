"""The labels of AutoS: the survival of a parameter, on a scale that runs share."""

from typing import get_args

import numpy as np
from numpy.typing import NDArray

from autosparse.config import Label
from autosparse.errors import unknown

LABELS: tuple[str, ...] = get_args(Label)


def label_table(label: str, densities: list[float]) -> NDArray[np.float64]:
    """Return the label of each survival 0..N of a run.

    `share`: s / N, the fraction of the iterations that a parameter survived. `min-max`: survival scaled to 0..1 over
    the survivals that occur in the run (the paper's code). `log-density`: -log10 of the density of the last mask that
    keeps the parameter, which means the same for any N and schedule; at 1% density it is 2. `rank`: the fraction of
    the run's parameters that a parameter outlived, where those of equal survival count half. The densities are those of
    the masks m_0..m_N; the labels are float64 (N + 1,).
    """
    if label not in LABELS:
        raise unknown("label", label, LABELS)
    survival = np.arange(len(densities), dtype=np.float64)
    iterations = len(densities) - 1
    if label == "share":
        return survival / iterations
    if label == "min-max":
        lowest = sum(density == 1.0 for density in densities) - 1
        highest = sum(density > 0.0 for density in densities) - 1
        return (survival - lowest) / (highest - lowest)
    if label == "rank":
        return 1 - (np.asarray(densities) + np.append(densities[1:], 0.0)) / 2
    return -np.log10(densities)
