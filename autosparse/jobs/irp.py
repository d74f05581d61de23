"""A run of iterative rewind pruning."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosparse.cluster import Job, provenance
from autosparse.cluster.progress import Progress, progress
from autosparse.cluster.speaking import speaking
from autosparse.config import IRPConfig
from autosparse.errors import UserError
from autosparse.jobs.setting import TrainingRun, described
from autosparse.jobs.tracking import Tracking, of_epoch, tracking

if TYPE_CHECKING:
    from accelerate import Accelerator

    from autosparse.data import Data
    from autosparse.irp import IRP
    from autosparse.training import Epoch


@dataclass(frozen=True, kw_only=True)
class IRPRun(TrainingRun):
    """Iterative rewind pruning of one network from one seed."""

    kind = "irp"

    config: IRPConfig = field(default_factory=IRPConfig)

    def check(self) -> None:
        super().check()
        epochs, rewind = self.setting.make_recipe().epochs, self.config.rewind_epoch
        if rewind > epochs:
            raise UserError(f"rewind epoch must lie in 0..{epochs}, the epochs of a training, got {rewind}")

    @property
    def folder(self) -> Path:
        c = self.config
        order = "" if c.order_seed is None else f"-{c.order_seed}"
        rewind = f"_rewind{c.rewind_epoch}" if c.rewind_epoch else ""
        probe = f"_k{c.probe_steps}" if c.probe_steps else ""
        return (
            self.output / "irp" / f"{self.setting.name}_{c.criterion}_n{c.iterations}{rewind}{probe}_s{c.seed}{order}"
        )

    def derived(self) -> dict[str, Any]:
        return {**super().derived(), "order_seed": self.config.order}

    def is_complete(self) -> bool:
        from autosparse.store import TripleStore
        from autosparse.store.schema import MARKER
        from autosparse.store.sidecars import read_history

        if not (self.folder / "triples.zarr" / MARKER).is_file():
            return False
        store = TripleStore.open(self.folder)  # a damaged store is an error, not a reason to run again over it
        history = read_history(self.folder, store.ledger.sidecars)
        return len(history) > self.config.iterations  # what it lacks is made again

    def run(self, accelerator: "Accelerator") -> None:
        data = self.setting.make_data(accelerator)
        main = accelerator.is_main_process
        with progress(self.folder, self._steps(data), "irp", main) as bar, self._tracking(main) as tracked:
            self._algorithm(accelerator, data, bar, tracked).run()

    @classmethod
    def run_together(cls, jobs: Sequence[Job], accelerator: "Accelerator") -> Mapping[Path, Exception]:
        from autosparse.pack import Pack

        own = [job for job in jobs if isinstance(job, IRPRun)]
        data = own[0].setting.make_data(accelerator)
        with ExitStack() as bars:
            runs = []
            for k, job in enumerate(own):
                bar = bars.enter_context(progress(job.folder, job._steps(data), "irp", True, shown=k == 0))
                tracked = bars.enter_context(job._tracking(main=True))
                with speaking(job.folder):
                    runs.append(job._algorithm(accelerator, data, bar, tracked))
            return Pack(runs).run()

    def _steps(self, data: "Data") -> int:
        """Count the steps of all trainings."""
        recipe = self.setting.make_recipe()
        return len(data.training(recipe.batch_size)) * recipe.epochs * (self.config.iterations + 1)

    def _tracking(self, main: bool) -> AbstractContextManager[Tracking]:
        return tracking(self.track, self.folder, self.identity(), main)

    def _algorithm(self, accelerator: "Accelerator", data: "Data", bar: Progress, tracked: Tracking) -> "IRP":
        from autosparse.irp import IRP

        model, recipe = self.setting.make_model(self.config.seed, accelerator), self.setting.make_recipe()
        own = {**self.identity(), **described(self.setting.task)}

        def after_epoch(i: int, epoch: "Epoch") -> None:
            bar.tell(epoch["epoch"], recipe.epochs, epoch["metric"], epoch["test"])
            values = of_epoch(epoch, recipe.rate(epoch["epoch"] - 1))
            tracked.log("epoch", i * recipe.epochs + epoch["epoch"], values)

        def after_training(row: dict[str, Any]) -> None:
            i = row["iteration"]
            values = {"number": i, "sparsity": 1 - row["density"], row["metric"]: row["test"]}
            named = {f"iteration/{name}": value for name, value in values.items()}
            tracked.log("iteration", (i + 1) * recipe.epochs, named)

        return IRP(
            model=model,
            data=data,
            recipe=recipe,
            config=self.config,
            folder=self.folder,
            accelerator=accelerator,
            layout=self.setting.layout(model),
            grad_batches=self.setting.grad_batches,
            attributes={**own, "versions": provenance.versions(), "commit": provenance.git_commit()},
            progress=bar.update,
            after_epoch=after_epoch,
            after_training=after_training,
        )
