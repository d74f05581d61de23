"""Where the axis of a metric ends, and how series keep their colours."""

import pandas as pd
import pytest

from autosparse.study.encodings import chosen, limits, number_of


def points(*means: float) -> pd.DataFrame:
    return pd.DataFrame({"mean": means, "std": 0.0})


def test_an_axis_holds_all_points_that_lie_together() -> None:
    low, high, cut = limits(points(80.0, 85.0, 90.0), "accuracy", "higher")
    assert (low, high, cut) == (79.5, 90.5, False)


@pytest.mark.parametrize(
    ("metric", "better", "chance", "others"),
    [("accuracy", "higher", 10.0, (90.0, 91.0, 92.0)), ("loss", "lower", 9.0, (2.0, 2.1, 2.2))],
)
def test_one_at_chance_does_not_flatten_the_others(
    metric: str, better: str, chance: float, others: tuple[float, ...]
) -> None:
    low, high, cut = limits(points(chance, *others * 3), metric, better)
    assert cut
    assert not low <= chance <= high
    assert low < min(others) < max(others) < high


def test_an_axis_of_shares_stays_within_them_and_one_point_has_a_margin() -> None:
    assert limits(points(99.9), "accuracy", "higher")[:2] == (99.4, 100.0)
    assert limits(points(99.9), "loss", "lower")[:2] == (99.4, 100.4)


def test_a_series_keeps_its_code_where_others_are_not_shown() -> None:
    assert chosen(["b", "a"], None) == {"b": 0, "a": 1}
    assert chosen(["b"], {"a": 0, "b": 1, "c": 2}) == {"b": 1}


def test_numbers_have_six_digits_and_what_is_none_is_so() -> None:
    assert [number_of(value) for value in (1 / 3, float("nan"), float("inf"), 7, "x")] == [0.333333, None, None, 7, "x"]
