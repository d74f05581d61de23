"""The density after iteration i of N."""

from dataclasses import dataclass

from autosparse.errors import UserError, unknown

SCHEDULES = ("geometric", "linear", "constant")


@dataclass(frozen=True)
class Schedule:
    """Density by iteration: 1 at i = 0, and never rising.

    `geometric`: f^(i/N), where each iteration removes the same fraction of the survivors. `linear`: 1 - (1 - f) i/N,
    where each iteration removes the same count. `constant`: r^i, where each iteration keeps the fraction r of the
    survivors, wherever that ends.

    Attributes:
        name: `geometric`, `linear` or `constant`.
        iterations: number of prunings, N.
        final_sparsity: 1 - f, between 0 and 1; `constant` has none.
        rate: r, between 0 and 1; of `constant` only.

    Examples:
        >>> from autosparse.pruning import Schedule
        >>> [round(Schedule("geometric", 2).density(i), 3) for i in range(3)]
        [1.0, 0.1, 0.01]
    """

    name: str
    iterations: int
    final_sparsity: float = 0.99
    rate: float = 0.85

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise unknown("schedule", self.name, SCHEDULES)
        if self.iterations < 1:
            raise UserError(f"a schedule needs at least one iteration, got {self.iterations}")
        what, value = ("rate", self.rate) if self.name == "constant" else ("sparsity", self.final_sparsity)
        if not 0.0 < value < 1.0:
            raise UserError(f"{what} must be between 0 and 1, got {value}")

    def density(self, i: int) -> float:
        """Return the fraction of the weights that is kept after iteration i, for i = 0..N."""
        if not 0 <= i <= self.iterations:
            raise ValueError(f"iteration {i} is outside 0..{self.iterations}")
        fraction, final = i / self.iterations, 1.0 - self.final_sparsity
        if self.name == "constant":
            return self.rate**i
        if self.name == "geometric":
            return float(final**fraction)
        return (1.0 - fraction) + final * fraction  # exact at both ends


def keep_count(density: float, size: int) -> int:
    """Return the number of weights that a density keeps of `size`, round(density · size).

    Raises:
        UserError: it keeps none of them.
    """
    count = round(density * size)
    if not count:
        raise UserError(f"a density of {density:g} keeps none of {size:,} weights; choose a lower sparsity")
    return count
