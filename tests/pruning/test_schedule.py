import pytest

from autosparse.errors import UserError
from autosparse.pruning import Constant, Geometric, Linear, Schedule, make_schedule
from autosparse.pruning.schedule import keep_count


@pytest.mark.parametrize("schedule", [Geometric(20, 0.01), Linear(20, 0.01), Constant(20, 0.8)])
def test_boundaries_and_monotony(schedule: Schedule) -> None:
    densities = [schedule.density(i) for i in range(21)]
    assert densities[0] == 1.0
    assert densities == sorted(densities, reverse=True)
    assert len(set(densities)) == 21
    for outside in (-1, 21):
        with pytest.raises(ValueError, match=r"outside 0\.\.20"):
            schedule.density(outside)


def test_values() -> None:
    assert Geometric(20, 0.01).density(20) == 0.01
    assert Geometric(20, 0.01).density(10) == pytest.approx(0.1)
    assert Linear(20, 0.01).density(20) == 0.01
    assert Linear(20, 0.01).density(10) == pytest.approx(0.505)
    assert Constant(3, 0.85).density(3) == pytest.approx(0.85**3)


def test_by_name() -> None:
    assert make_schedule("geometric", 5, 0.75) == Geometric(5, 0.25)
    assert make_schedule("linear", 5, 0.75) == Linear(5, 0.25)
    assert make_schedule("constant", 5, 0.75, 0.9) == Constant(5, 0.9)
    with pytest.raises(UserError, match="unknown schedule 'cosine'; valid: geometric, linear, constant"):
        make_schedule("cosine", 5, 0.9)
    for sparsity in (0.0, 1.0):
        with pytest.raises(UserError, match="between 0 and 1"):
            make_schedule("geometric", 5, sparsity)
    with pytest.raises(UserError, match="at least one iteration"):
        make_schedule("linear", 0, 0.9)
    with pytest.raises(UserError, match="rate"):
        make_schedule("constant", 5, 0.9, 1.0)


def test_counts_are_rounded() -> None:
    assert keep_count(0.01, 266_200) == 2662
    assert keep_count(1.0, 7) == 7
