"""The density after iteration i of N."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from autosparse.errors import UserError, unknown


class Schedule(Protocol):
    """Density by iteration: 1 at i = 0, the final density at i = N, never rising."""

    @property
    def iterations(self) -> int:
        """N, the number of prunings."""

    def density(self, i: int) -> float:
        """Share kept after iteration i, for i = 0..N."""


@dataclass(frozen=True)
class _ToFinal:
    iterations: int
    final_density: float

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise UserError(f"a schedule needs at least one iteration, got {self.iterations}")
        if not 0.0 < self.final_density < 1.0:
            raise UserError(f"the final density must lie between 0 and 1, got {self.final_density}")


@dataclass(frozen=True)
class Geometric(_ToFinal):
    """f^(i/N): each iteration removes the same share of the survivors."""

    def density(self, i: int) -> float:
        """Share kept after iteration i, for i = 0..N."""
        return self.final_density ** (_checked(i, self.iterations) / self.iterations)


@dataclass(frozen=True)
class Linear(_ToFinal):
    """1 - (1 - f) i/N: each iteration removes the same count."""

    def density(self, i: int) -> float:
        """Share kept after iteration i, for i = 0..N."""
        share = _checked(i, self.iterations) / self.iterations
        return (1.0 - share) + self.final_density * share  # exact at both ends


@dataclass(frozen=True)
class Constant:
    """r^i: each iteration keeps the share r of the survivors, wherever that ends."""

    iterations: int
    rate: float

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise UserError(f"a schedule needs at least one iteration, got {self.iterations}")
        if not 0.0 < self.rate < 1.0:
            raise UserError(f"the rate of a constant schedule must lie between 0 and 1, got {self.rate}")

    def density(self, i: int) -> float:
        """Share kept after iteration i, for i = 0..N."""
        return self.rate ** _checked(i, self.iterations)


SCHEDULES: dict[str, Callable[[int, float], Schedule]] = {"geometric": Geometric, "linear": Linear}


def make_schedule(name: str, iterations: int, final_sparsity: float, rate: float = 0.85) -> Schedule:
    """A schedule by name: `geometric` or `linear` to the final sparsity, or `constant` with the given rate.

    Raises:
        UserError: an unknown name, a sparsity or rate outside (0, 1), or no iterations.
    """
    if name == "constant":
        return Constant(iterations, rate)
    if name not in SCHEDULES:
        raise unknown("schedule", name, [*SCHEDULES, "constant"])
    if not 0.0 < final_sparsity < 1.0:
        raise UserError(f"sparsity must lie between 0 and 1, got {final_sparsity}")
    return SCHEDULES[name](iterations, 1.0 - final_sparsity)


def keep_count(density: float, size: int) -> int:
    """How many of `size` parameters a density keeps: round(density · size).

    Raises:
        UserError: it keeps none of them.
    """
    count = round(density * size)
    if not count:
        raise UserError(f"a density of {density:g} keeps none of {size:,} weights; choose a lower sparsity")
    return count


def _checked(i: int, iterations: int) -> int:
    if not 0 <= i <= iterations:
        raise ValueError(f"iteration {i} is outside 0..{iterations}")
    return i
