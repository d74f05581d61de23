"""A run of iterative rewind pruning."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosparse.cluster import records
from autosparse.cluster.records import progress
from autosparse.config import IRPConfig
from autosparse.errors import UserError
from autosparse.jobs.base import TrainingRun, task_attributes
from autosparse.jobs.tracking import Tracking, epoch_values

if TYPE_CHECKING:
    from accelerate import Accelerator

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
            raise UserError(f"rewind epoch must lie in 0..{epochs}, the epochs of a training run, got {rewind}")

    @property
    def folder(self) -> Path:
        c = self.config
        order = "" if c.order_seed is None else f"-{c.order_seed}"
        batch_norm = "" if c.batch_norm == "batch" else f"-{c.batch_norm}"
        schedule = "" if c.schedule == "geometric" else f"-{c.schedule}"
        schedule += "" if c.rate == IRPConfig.rate else f"-{100 * c.rate:g}"
        schedule += "" if c.final_sparsity == IRPConfig.final_sparsity else f"-{100 * c.final_sparsity:g}"
        rewind = f"_rewind{c.rewind_epoch}" if c.rewind_epoch else ""
        rewind += "" if c.rewind == "all" else f"_rewind-{c.rewind}"
        first = "_prune-first" if c.prune_first else ""
        probe = f"_k{c.probe_steps}" if c.probe_steps else ""
        details = f"{c.criterion}{batch_norm}_n{c.iterations}{schedule}{rewind}{first}{probe}_s{c.seed}{order}"
        return self.output / "irp" / f"{self.setting.name}_{details}"

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "order_seed": self.config.order}

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
        from autosparse.irp import IRP

        setting, main = self.setting, accelerator.is_main_process
        model, data = setting.make(self.config.seed, accelerator)
        recipe = setting.make_recipe()
        steps = len(data.training(recipe.batch_size)) * recipe.epochs * (self.config.iterations + 1)
        with (
            progress(self.folder, steps, "irp", main) as bar,
            Tracking(self.track, self.folder, self.identity(), main) as tracked,
        ):

            def after_epoch(i: int, epoch: "Epoch") -> None:
                bar.tell(epoch["epoch"], recipe.epochs, epoch["metric"], epoch["test"])
                values = epoch_values(epoch, recipe.rate(epoch["epoch"] - 1))
                tracked.log("epoch", i * recipe.epochs + epoch["epoch"], values)

            def after_training(row: dict[str, Any]) -> None:
                i = row["iteration"]
                others = {key.partition("/")[2]: value for key, value in row.items() if key.startswith("test/")}
                values = {"number": i, "sparsity": 1 - row["density"], row["metric"]: row["test"], **others}
                named = {f"iteration/{name}": value for name, value in values.items()}
                tracked.log("iteration", (i + 1) * recipe.epochs, named)

            IRP(
                model=model,
                data=data,
                recipe=recipe,
                config=self.config,
                folder=self.folder,
                accelerator=accelerator,
                layout=setting.layout(model),
                grad_batches=setting.grad_batches,
                attributes={
                    **self.identity(),
                    **task_attributes(setting.task),
                    "versions": records.versions(),
                    "commit": records.git_commit(),
                },
                progress=bar.update,
                after_epoch=after_epoch,
                after_training=after_training,
            ).run()
