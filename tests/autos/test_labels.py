import numpy as np
import pytest

from autosparse.autos.features import LABELS, label_table
from autosparse.errors import UserError
from autosparse.pruning import Schedule

GEOMETRIC = [0.01 ** (i / 20) for i in range(21)]


def densities(kind: str, iterations: int) -> list[float]:
    schedule = Schedule(kind, iterations, 0.99, 0.85)
    return [schedule.density(i) for i in range(iterations + 1)]


def test_share_and_min_max_of_the_survivals_that_occur() -> None:
    assert label_table("share", GEOMETRIC).tolist() == [s / 20 for s in range(21)]
    assert label_table("min-max", GEOMETRIC).tolist() == [s / 20 for s in range(21)]
    # Nothing is pruned in the first iteration and everything in the last: survivals 1 to 3 occur.
    assert label_table("min-max", [1.0, 1.0, 0.5, 0.1, 0.0])[1:4].tolist() == [0.0, 0.5, 1.0]


def test_log_density_is_comparable_between_numbers_of_iterations() -> None:
    for kind in ("geometric", "linear"):
        few, many = (label_table("log-density", densities(kind, n)) for n in (20, 100))
        assert (few[0], few[-1]) == pytest.approx((0.0, 2.0))
        np.testing.assert_allclose(many[::5], few, atol=1e-9)  # the same density has the same label
    share = [label_table("share", densities("linear", n))[-2] for n in (20, 100)]
    assert share[0] != pytest.approx(share[1])


def test_rank_is_the_mean_rank_of_a_survival() -> None:
    table = label_table("rank", [1.0, 0.6, 0.1])
    survival = np.repeat([0, 1, 2], [40, 50, 10])  # of a hundred parameters
    ranks = [(survival < s).mean() + (survival == s).mean() / 2 for s in range(3)]
    assert table.tolist() == pytest.approx(ranks)
    assert table[survival].mean() == pytest.approx(0.5)
    few, many = (label_table("rank", densities("geometric", n)) for n in (20, 100))
    assert few[-1] == pytest.approx(many[-1])


def test_unknown_label_raises() -> None:
    with pytest.raises(UserError, match=f"unknown label 'order'; valid: {', '.join(LABELS)}"):
        label_table("order", GEOMETRIC)
