"""A network pruned at initialization and trained."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosparse import registry
from autosparse.config import SHIPPED, PruneConfig, folder_of, is_folder
from autosparse.criteria.table import AHEAD, DYNAMIC, LOOK_AHEAD, ROWS, check_options
from autosparse.errors import UserError, unknown
from autosparse.files import is_json
from autosparse.jobs.setting import TrainingRun

if TYPE_CHECKING:
    from accelerate import Accelerator

    from autosparse.tasks.recipe import Recipe

RESULT, MASK = "result.json", "mask.safetensors"


@dataclass(frozen=True, kw_only=True)
class PruneRun(TrainingRun):
    """One network pruned at initialization by one criterion to one sparsity, and trained."""

    kind = "prune"

    config: PruneConfig = field(default_factory=PruneConfig)

    def check(self) -> None:
        c = self.config
        if not 0.0 <= c.sparsity < 1.0:  # 0 is the dense network
            raise UserError(f"sparsity must lie between 0 and 1 (0.95 removes 95% of the weights), got {c.sparsity}")
        if c.sanity == "inverted" and c.criterion in ROWS and not ROWS[c.criterion].ordered:
            raise UserError(f"{c.criterion} cannot be inverted: it chooses layer by layer, or lets weights come back")
        if c.sanity != "none" and self.dynamic:
            raise UserError(f"{c.criterion} chooses its mask during the training; sanity checks need one before it")
        check_options(c.criterion, c.rounds, c.batch_norm)
        if c.steps is not None and not self.looks_ahead and not self.missing():
            raise UserError(f"steps are for {AHEAD}, not for {self.label}, which does not train before")
        if self.learned and c.criterion not in SHIPPED and not is_folder(c.criterion):
            raise unknown("criterion", c.criterion, [*ROWS, "the folder of a saved AutoS", "FILE.py:FUNCTION"])
        if self.own:
            self._found()
        super().check()
        if self.learned and not self.missing():
            from autosparse.autos import AutoSCriterion

            AutoSCriterion.load(self.saved)

    @property
    def learned(self) -> bool:
        """Whether the criterion is a saved AutoS."""
        return (self.config.criterion in SHIPPED or self.config.criterion not in ROWS) and not self.own

    @property
    def dynamic(self) -> bool:
        """Whether the mask is chosen during the training."""
        return self.config.criterion in DYNAMIC

    @property
    def looks_ahead(self) -> bool:
        """Whether the mask is chosen by trainings of some steps; an AutoS must be there to tell."""
        if not self.learned or self.missing():
            return self.config.criterion in LOOK_AHEAD
        from autosparse.autos import AutoSCriterion

        return AutoSCriterion.load(self.saved).looks_ahead

    def make_recipe(self) -> "Recipe":
        """The setting's, stretched to as many trainings as were asked for."""
        recipe = self.setting.make_recipe()
        return recipe.with_epochs(self.config.trainings * recipe.epochs)

    @property
    def own(self) -> bool:
        """Whether the criterion is a function of the user's, by its import path."""
        return registry.is_path(self.config.criterion)

    @property
    def label(self) -> str:
        """Name of the criterion in folders and tables."""
        longer = f"-x{self.config.trainings}" if self.config.trainings > 1 else ""
        if self.config.sparsity == 0:
            return f"dense{longer}"
        rounds = f"-r{self.config.rounds}" if self.config.rounds else ""
        steps = f"-k{self.config.steps}" if self.config.steps else ""
        own = self.config.criterion.rpartition(":")[2]
        name = f"autos-{self.saved.resolve().name}" if self.learned else own
        batch_norm = "" if self.config.batch_norm == "batch" else f"-{self.config.batch_norm}"
        return f"{name}{rounds}{steps}{batch_norm}{longer}"

    @property
    def saved(self) -> Path:
        """Where the AutoS is, if the criterion is one."""
        return folder_of(self.config.criterion)

    @property
    def folder(self) -> Path:
        c = self.config
        sanity = "" if c.sanity == "none" else f"_{c.sanity}"
        return self.output / "prune" / f"{self.setting.name}_{self.label}_{100 * c.sparsity:g}{sanity}_s{c.seed}"

    def missing(self) -> str | None:
        try:
            self._fingerprint()
        except UserError as error:
            return str(error)
        return None

    def derived(self) -> dict[str, Any]:
        own = {"criterion_code": registry.digest_of(self._found())} if self.own else {}
        return {**super().derived(), "criterion": self.label, "autos": self._fingerprint(), **own}

    def sources(self) -> list[Path]:
        return super().sources() + ([registry.source_of(self._found())] if self.own else [])

    def _found(self) -> Any:
        return registry.resolve(self.config.criterion, "criterion", {})

    def _fingerprint(self) -> str | None:
        """The digest of the saved AutoS; None for a criterion that is not learned."""
        if not self.learned:
            return None
        from autosparse.autos import AutoS

        return AutoS.fingerprint(self.saved)

    def is_complete(self) -> bool:
        return is_json(self.folder / RESULT) and (self.folder / MASK).is_file()

    def run(self, accelerator: "Accelerator") -> None:
        from autosparse.jobs.work import prune

        prune.run(self, accelerator)
