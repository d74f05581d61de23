import pytest

from autosparse.errors import UserError
from autosparse.pruning import Schedule
from autosparse.pruning.schedule import SCHEDULES, keep_count


@pytest.mark.parametrize("name", SCHEDULES)
def test_density_falls_from_one(name: str) -> None:
    schedule = Schedule(name, 20, 0.99, 0.8)
    densities = [schedule.density(i) for i in range(21)]
    assert densities[0] == 1.0
    assert densities == sorted(densities, reverse=True)
    assert len(set(densities)) == 21
    for outside in (-1, 21):
        with pytest.raises(ValueError, match=r"outside 0\.\.20"):
            schedule.density(outside)


def test_densities_are_those_of_the_formulas() -> None:
    assert Schedule("geometric", 20, 0.75).density(20) == 0.25
    assert Schedule("geometric", 20, 0.99).density(10) == pytest.approx(0.1)
    assert Schedule("linear", 20, 0.75).density(20) == 0.25
    assert Schedule("linear", 20, 0.99).density(10) == pytest.approx(0.505)
    assert Schedule("constant", 3, rate=0.85).density(3) == pytest.approx(0.85**3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cosine", 5, 0.9), "unknown schedule 'cosine'; valid: geometric, linear, constant"),
        (("geometric", 5, 0.0), "sparsity must be between 0 and 1"),
        (("geometric", 5, 1.0), "sparsity must be between 0 and 1"),
        (("linear", 0, 0.9), "at least one iteration"),
        (("constant", 5, 0.9, 1.0), "rate must be between 0 and 1"),
    ],
)
def test_schedule_that_cannot_be_raises(arguments: tuple[str, int, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Schedule(*arguments)


def test_counts_are_rounded() -> None:
    assert keep_count(0.01, 266_200) == 2662
    assert keep_count(1.0, 7) == 7
