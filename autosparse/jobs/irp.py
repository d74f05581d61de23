"""A run of iterative rewind pruning."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from autosparse.cluster import Job, provenance
from autosparse.cluster.progress import progress
from autosparse.criteria import ONE_SHOT, TARGETED
from autosparse.criteria.gradient import BATCH_NORM_MODES
from autosparse.errors import UserError, unknown
from autosparse.files import read_json
from autosparse.irp import rewind_pruning
from autosparse.jobs.common import check_seed
from autosparse.jobs.setting import Setting
from autosparse.pruning import Schedule, make_schedule
from autosparse.store import TripleStore
from autosparse.store.schema import MARKER


@dataclass(frozen=True)
class IRPRun(Job):
    """Iterative rewind pruning of one network from one seed."""

    output: Path
    setting: Setting = field(default_factory=Setting)
    criterion: str = "snip"
    iterations: int = 20
    schedule: str = "geometric"
    final_sparsity: float = 0.99
    rate: float = 0.85
    seed: int = 0
    order_seed: int | None = None
    rewind_epoch: int = 0
    batch_norm: str = "batch"

    def check(self) -> None:
        """Refuse what cannot run."""
        self.setting.check()
        self.make_schedule()
        if self.criterion in TARGETED:
            raise UserError(
                f"{self.criterion} scores for one final sparsity, and IRP has one an iteration; "
                f"it takes {', '.join(ONE_SHOT)}"
            )
        if self.criterion not in ONE_SHOT:
            raise unknown("criterion", self.criterion, ONE_SHOT)
        check_seed(self.seed)
        if self.order_seed is not None:
            check_seed(self.order_seed)
        if not 0 <= self.rewind_epoch <= (epochs := self.setting.make_recipe().epochs):
            raise UserError(
                f"--rewind-epoch must lie in 0..{epochs}, the epochs of a training, got {self.rewind_epoch}"
            )
        if self.batch_norm not in BATCH_NORM_MODES:
            raise unknown("batch-norm mode", self.batch_norm, BATCH_NORM_MODES)

    def make_schedule(self) -> Schedule:
        """The density after each iteration."""
        return make_schedule(self.schedule, self.iterations, self.final_sparsity, self.rate)

    @property
    def folder(self) -> Path:
        order = "" if self.order_seed is None else f"-{self.order_seed}"
        rewind = f"_rewind{self.rewind_epoch}" if self.rewind_epoch else ""
        name = f"{self.setting.name}_{self.criterion}_n{self.iterations}{rewind}_s{self.seed}{order}"
        return self.output / "irp" / name

    def config(self) -> dict[str, Any]:
        return {
            "kind": "irp",
            "criterion": self.criterion,
            "iterations": self.iterations,
            "schedule": self.schedule,
            **({"rate": self.rate} if self.schedule == "constant" else {"final_sparsity": self.final_sparsity}),
            "seed": self.seed,
            "order_seed": self.seed if self.order_seed is None else self.order_seed,
            "rewind_epoch": self.rewind_epoch,
            "batch_norm": self.batch_norm,
            **self.setting.config(),
        }

    def is_complete(self) -> bool:
        if not (self.folder / "triples.zarr" / MARKER).is_file():
            return False
        TripleStore.open(self.folder)  # a damaged store is an error, not a reason to run again over it
        history = self.folder / "history.json"
        if not history.is_file() or len(read_json(history)) != self.iterations + 1:
            raise UserError(f"{history} is missing or damaged; delete the run and run it again")
        return True

    def run(self, accelerator: Accelerator) -> None:
        model, data = self.setting.make(self.seed, accelerator)
        recipe = self.setting.make_recipe()
        steps = len(data.training(recipe.batch_size)) * recipe.epochs * (self.iterations + 1)
        with progress(self.folder, steps, "irp", accelerator.is_main_process) as bar:
            rewind_pruning(
                model,
                data,
                ONE_SHOT[self.criterion](self.config()["order_seed"]),
                self.make_schedule(),
                recipe,
                self.folder,
                accelerator,
                seed=self.config()["order_seed"],
                grad_batches=self.setting.grad_batches,
                batch_norm=self.batch_norm,
                rewind_epoch=self.rewind_epoch,
                run={**self.config(), "versions": provenance.versions(), "commit": provenance.git_commit()},
                progress=bar.update,
            )
