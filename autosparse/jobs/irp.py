"""A run of iterative rewind pruning."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosparse.cluster import provenance
from autosparse.cluster.progress import progress
from autosparse.config import IRPConfig
from autosparse.errors import UserError
from autosparse.jobs.setting import TrainingRun, described

if TYPE_CHECKING:
    from accelerate import Accelerator


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
        from autosparse.store.beside import read_history
        from autosparse.store.schema import MARKER

        if not (self.folder / "triples.zarr" / MARKER).is_file():
            return False
        store = TripleStore.open(self.folder)  # a damaged store is an error, not a reason to run again over it
        return len(read_history(self.folder, store.beside)) > self.config.iterations  # what it lacks is made again

    def run(self, accelerator: "Accelerator") -> None:
        from autosparse.irp import IRP

        model, data = self.setting.make(self.config.seed, accelerator)
        recipe = self.setting.make_recipe()
        steps = len(data.training(recipe.batch_size)) * recipe.epochs * (self.config.iterations + 1)
        own = {**self.identity(), **described(self.setting.task)}
        attributes = {**own, "versions": provenance.versions(), "commit": provenance.git_commit()}
        with progress(self.folder, steps, "irp", accelerator.is_main_process) as bar:
            IRP(
                model=model,
                data=data,
                recipe=recipe,
                config=self.config,
                folder=self.folder,
                accelerator=accelerator,
                layout=self.setting.layout(model),
                grad_batches=self.setting.grad_batches,
                attributes=attributes,
                progress=bar.update,
            ).run()
