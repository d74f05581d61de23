"""Formats of metrics: fractions in percent, all others as they are."""

FRACTIONS = ("accuracy",)
"""Metrics that are fractions."""


def described(metric: str, value: float) -> str:
    """Return a metric and its value for a line of text."""
    return f"{metric} {value:.2%}" if metric in FRACTIONS else f"{metric} {value:.4g}"


def factor(metric: str) -> float:
    """Return the factor by which values are multiplied for display."""
    return 100.0 if metric in FRACTIONS else 1.0


def decimals(metric: str) -> int:
    """Return the number of decimals for display, after `factor`."""
    return 2 if metric in FRACTIONS else 4


def label(metric: str) -> str:
    """Return the metric with its unit."""
    return f"{metric}, %" if metric in FRACTIONS else metric
