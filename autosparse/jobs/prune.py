"""A network pruned at initialization and trained."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosparse import registry
from autosparse.config import CRITERIA, PRETRAINED, PruneConfig, check_batch_norm, folder_of, is_folder
from autosparse.errors import UserError, unknown
from autosparse.files import is_json
from autosparse.jobs.setting import TrainingRun

if TYPE_CHECKING:
    from accelerate import Accelerator

RESULT, MASK = "result.json", "mask.safetensors"
NOT_INVERTED = ("random-erk", "npb", "npb-tiny-imagenet", "force")
"""Criteria that choose layer by layer, or weights that may come back: their scores have no order to invert."""


@dataclass(frozen=True, kw_only=True)
class PruneRun(TrainingRun):
    """One network pruned at initialization by one criterion to one sparsity, and trained."""

    kind = "prune"

    config: PruneConfig = field(default_factory=PruneConfig)

    def check(self) -> None:
        c = self.config
        if not 0.0 <= c.sparsity < 1.0:  # 0 is the dense network
            raise UserError(f"sparsity must lie between 0 and 1 (0.95 removes 95% of the weights), got {c.sparsity}")
        if c.sanity == "inverted" and c.criterion in NOT_INVERTED:
            raise UserError(f"{c.criterion} cannot be inverted: it chooses layer by layer, or lets weights come back")
        if c.rounds is not None and not self.learned:
            raise UserError(f"rounds are for a saved AutoS, not for {c.criterion}; snip in rounds is iterative-snip")
        check_batch_norm(c.criterion, c.batch_norm)
        if self.learned and c.criterion != PRETRAINED and not is_folder(c.criterion):
            raise unknown(
                "criterion", c.criterion, [PRETRAINED, *CRITERIA, "the folder of a saved AutoS", "FILE.py:FUNCTION"]
            )
        if self.own:
            self._found()
        super().check()
        if self.learned and not self.missing():
            from autosparse.autos import AutoSCriterion

            AutoSCriterion.load(self.saved)

    @property
    def learned(self) -> bool:
        """Whether the criterion is a saved AutoS."""
        return self.config.criterion not in CRITERIA and not self.own

    @property
    def own(self) -> bool:
        """Whether the criterion is a function of the user's, by its import path."""
        return registry.is_path(self.config.criterion)

    @property
    def label(self) -> str:
        """The criterion's name in folders and tables."""
        c = self.config
        if self.learned:
            return f"autos-{self.saved.resolve().name}" + (f"-r{c.rounds}" if c.rounds else "")
        return c.criterion.rpartition(":")[2] + ("" if c.batch_norm == "batch" else f"-{c.batch_norm}")

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
