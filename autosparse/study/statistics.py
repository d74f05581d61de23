"""Paired comparison of methods over seeds."""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

SIGNIFICANT = 0.05
"""Largest corrected p-value at which one method is called better than another."""


@dataclass(frozen=True)
class Difference:
    """Difference of two methods over the seeds that both have.

    Attributes:
        mean: mean of the first method minus the second; positive if the first is better.
        low, high: its 95% confidence interval by Student's t; NaN for fewer than two seeds.
        p: p-value of the paired t-test, two-sided; NaN for fewer than two seeds.
        n: number of seeds.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int


def paired(first: pd.Series, second: pd.Series, better: str = "higher") -> Difference:
    """Compare two methods, each a value per seed (the index), on the seeds that both have."""
    both = pd.concat([first, second], axis=1, join="inner").dropna().to_numpy(float)
    if better == "lower":
        both = -both
    if len(both) < 2:
        return Difference(float(np.diff(-both).mean()) if len(both) else np.nan, np.nan, np.nan, np.nan, len(both))
    with warnings.catch_warnings():  # Differences that are equal for all seeds have a p-value of 0.
        warnings.simplefilter("ignore", RuntimeWarning)
        result = stats.ttest_rel(both[:, 0], both[:, 1])
    interval = result.confidence_interval(0.95)
    mean = float((both[:, 0] - both[:, 1]).mean())
    return Difference(mean, float(interval.low), float(interval.high), float(result.pvalue), len(both))


def corrected(p_values: list[float]) -> list[float]:
    """Return p-values corrected for their number (Benjamini and Hochberg 1995); NaN stays NaN."""
    values = np.array(p_values, dtype=float)
    known = ~np.isnan(values)
    if known.any():
        values[known] = stats.false_discovery_control(values[known])
    return [float(value) for value in values]
