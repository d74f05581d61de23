"""Iterative rewind pruning of several networks in lockstep: they are trained together, and all else each has alone."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

from autosparse.cluster.speaking import speaking
from autosparse.errors import UserError
from autosparse.irp import IRP, naming
from autosparse.training import train_together

Result = TypeVar("Result")


class Pack:
    """Runs of IRP of one architecture, data and recipe, with as many iterations each.

    Each run has its own folder, with the same files as without a pack; numbers differ by rounding. Either a pack or
    a single run can continue an unfinished run. A run that fails leaves the pack.

    Attributes:
        failed: why, by the folder of the run.
    """

    def __init__(self, runs: Sequence[IRP]) -> None:
        self.failed: dict[Path, UserError] = {}
        self._runs = list(runs)
        self._iterations = runs[0].schedule.iterations
        if any(run.schedule.iterations != self._iterations for run in runs):
            raise ValueError("the runs of a pack have as many iterations each")

    def run(self) -> dict[Path, UserError]:
        """Run Algorithm 2 for all, or what is left of it; returns those that failed, and why.

        Raises:
            UserError: the recipe, the network or its batches cannot be packed.
        """
        self._runs = [run for run, unfinished in self._each(IRP.begin) if unfinished]
        self._each(IRP.features)
        for i in range(self._iterations + 1):
            self._train(i)
            self._each(lambda run: run.prune(i), i)  # noqa: B023 - called at once
        self._each(IRP.finish)
        return self.failed

    def _train(self, i: int) -> None:
        """Train those that are not trained under their m_i yet."""
        due = [(run, training) for run, training in self._each(lambda run: run.training(i), i) if training]
        if not due:
            return
        first = due[0][0]
        ends = train_together([training for _, training in due], first.data, first.recipe, first.accelerator)
        by_folder = {run.folder: end for (run, _), end in zip(due, ends, strict=True)}

        def record(run: IRP) -> None:
            end = by_folder[run.folder]
            if isinstance(end, UserError):
                raise end
            run.record(i, end)

        self._each(record, i, [run for run, _ in due])

    def _each(
        self, step: Callable[[IRP], Result], i: int | None = None, runs: Sequence[IRP] | None = None
    ) -> list[tuple[IRP, Result]]:
        """What a step, of iteration `i`, gives of each run, those left out that fail in it and leave the pack."""
        found = []
        for run in list(self._runs if runs is None else runs):
            try:
                with speaking(run.folder), nullcontext() if i is None else naming(i):
                    found.append((run, step(run)))
            except UserError as error:
                self.failed[run.folder] = error
                self._runs.remove(run)
        return found
