"""What AutoS learns of a parameter: its survival, on a scale that runs share."""

from typing import get_args

import numpy as np
from numpy.typing import NDArray

from autosparse.config import Label
from autosparse.errors import UserError, unknown

LABELS: tuple[str, ...] = get_args(Label)


def label_table(label: str, densities: list[float]) -> NDArray[np.float64]:
    """The label of each survival 0..N of a run, float64 (N + 1,).

    `share`: s / N, the share of the iterations that a parameter outlived. `min-max`: brought to 0..1 over the survivals
    that the run has (the paper's code). `log-density`: -log10 of the density of the last mask that keeps the parameter,
    which means the same whatever N and schedule are; at 1% density it is 2. `rank`: the share of the run's parameters
    that a parameter outlived, those of its own survival by half.

    Args:
        label: one of `LABELS`.
        densities: of the masks m_0..m_N.

    Raises:
        UserError: an unknown label, or one that the run does not have.
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
        if lowest == highest:
            raise UserError("all parameters of a run have the same survival; there is nothing to learn from it")
        return (survival - lowest) / (highest - lowest)
    if label == "rank":
        return 1 - (np.asarray(densities) + np.append(densities[1:], 0.0)) / 2
    if densities[-1] == 0.0:
        raise UserError("the last mask of a run keeps nothing, which has no log-density")
    return -np.log10(densities)
