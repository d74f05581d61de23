"""Paired comparison of methods over seeds."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

SIGNIFICANT = 0.05
"""Largest corrected p-value at which one method is called better than another."""
TESTED = 3
"""Smallest number of paired seeds for a test; two differences are easily equal, for which p would be 0."""


@dataclass(frozen=True)
class Difference:
    """Difference of two methods over the seeds that both have.

    Attributes:
        mean: mean of the first method minus the second; positive if the first is better. NaN without a seed.
        low, high: its 95% confidence interval by Student's t; NaN for fewer than `TESTED` seeds.
        p: p-value of the paired t-test, two-sided; NaN for fewer than `TESTED` seeds.
        n: number of seeds.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int


def ranked(values: Mapping[str, pd.Series], better: str) -> list[str]:
    """Return methods by their means, but first the best of those with the most seeds.

    Means over different seeds cannot be compared.

    Args:
        values: values of each method by seed.
        better: direction of the metric, higher or lower.
    """
    order = sorted(values, key=lambda name: values[name].mean(), reverse=better == "higher")
    best = max(order, key=lambda name: len(values[name]))  # The first of them.
    return [best, *(name for name in order if name != best)]


def paired(first: pd.Series, second: pd.Series, better: str = "higher") -> Difference:
    """Compare two methods, each a value per seed (the index), on the seeds that both have."""
    difference = first - second if better == "higher" else second - first
    values = difference.dropna().to_numpy(float)
    n, mean = len(values), float(values.mean()) if len(values) else np.nan
    if n < TESTED:
        return Difference(mean, np.nan, np.nan, np.nan, n)
    if not values.any():
        return Difference(0.0, 0.0, 0.0, 1.0, n)
    with warnings.catch_warnings():  # Differences that are equal for all seeds have a p-value of 0.
        warnings.simplefilter("ignore", RuntimeWarning)
        result = stats.ttest_1samp(values, 0.0)
    interval = result.confidence_interval(0.95)
    return Difference(mean, float(interval.low), float(interval.high), float(result.pvalue), n)


def corrected(p_values: list[float]) -> list[float]:
    """Return p-values corrected for their number (Benjamini and Hochberg 1995); NaN stays NaN."""
    values = np.array(p_values, dtype=float)
    known = ~np.isnan(values)
    if known.any():
        values[known] = stats.false_discovery_control(values[known])
    return [float(value) for value in values]
