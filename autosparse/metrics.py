"""How the values of a metric are shown: shares in per cent, all else as it is."""

SHARES = ("accuracy",)
"""Metrics that are shares."""


def described(metric: str, value: float) -> str:
    """A value, for a line of text."""
    return f"{metric} {value:.2%}" if metric in SHARES else f"{metric} {value:.4g}"


def factor(metric: str) -> float:
    """What values are multiplied by to be shown."""
    return 100.0 if metric in SHARES else 1.0


def label(metric: str) -> str:
    """The metric with its unit."""
    return f"{metric}, %" if metric in SHARES else metric
