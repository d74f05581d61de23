"""A network pruned at initialization and trained."""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from autosparse.api import check_rounds, check_sparsity, find_criterion, folder_of, is_path
from autosparse.autos import AutoS, AutoSCriterion
from autosparse.autos.autos import CARD
from autosparse.autos.pretrained import NAME as PRETRAINED
from autosparse.cluster import Job, provenance
from autosparse.cluster.progress import progress
from autosparse.criteria import CRITERIA, select
from autosparse.data import ImageData
from autosparse.errors import UserError, unknown
from autosparse.files import read_json, write_json
from autosparse.irp import SCORING_BATCH
from autosparse.jobs.common import check_seed, is_json
from autosparse.jobs.sanity import NOT_INVERTED, SANITY, inverted, reinitialized, shuffled
from autosparse.jobs.setting import Setting
from autosparse.pruning import Layout, Mask
from autosparse.pruning.schedule import keep_count
from autosparse.training import Checkpoint, summarize, train

RESULT, MASK = "result.json", "mask.safetensors"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PruneRun(Job):
    """One network pruned at initialization by one criterion to one sparsity, and trained."""

    output: Path
    setting: Setting = field(default_factory=Setting)
    criterion: str = "snip"
    sparsity: float = 0.95
    seed: int = 0
    sanity: str = "none"
    rounds: int | None = None

    def check(self) -> None:
        """Refuse what cannot run."""
        self.setting.check()
        if self.sparsity:  # 0 is the dense network
            check_sparsity(self.sparsity)
        check_seed(self.seed)
        if self.sanity not in SANITY:
            raise unknown("sanity check", self.sanity, SANITY)
        if self.sanity == "inverted" and self.criterion in NOT_INVERTED:
            raise UserError(f"--sanity inverted: {self.criterion} chooses layer by layer, or lets weights come back")
        check_rounds(self.criterion, self.rounds)
        if self.rounds is not None and self.rounds < 1:
            raise UserError(f"--rounds must be at least 1, got {self.rounds}")
        if not self.learned:
            return
        if self.criterion != PRETRAINED and not is_path(self.criterion):
            raise unknown("criterion", self.criterion, [PRETRAINED, *CRITERIA, "or the folder of a saved AutoS"])
        if not self.missing():
            AutoSCriterion.load(self._saved)

    @property
    def learned(self) -> bool:
        """Whether the criterion is a saved AutoS."""
        return self.criterion not in CRITERIA

    @property
    def label(self) -> str:
        """The criterion's name in folders and tables."""
        rounds = f"-r{self.rounds}" if self.rounds else ""
        return f"autos-{self._saved.resolve().name}{rounds}" if self.learned else self.criterion

    @property
    def _saved(self) -> Path:
        """Where the AutoS is."""
        return folder_of(self.criterion)

    @property
    def folder(self) -> Path:
        sanity = "" if self.sanity == "none" else f"_{self.sanity}"
        name = f"{self.setting.name}_{self.label}_{100 * self.sparsity:g}{sanity}_s{self.seed}"
        return self.output / "prune" / name

    def missing(self) -> str | None:
        if not self.learned or (self._saved / CARD).is_file():
            return None
        return f"no saved AutoS in {self.criterion}; fit one with launch/autos.py"

    def config(self) -> dict[str, Any]:
        return {
            "kind": "prune",
            "criterion": self.label,
            "autos": AutoS.fingerprint(self._saved) if self.learned else None,
            "rounds": self.rounds,
            "sparsity": self.sparsity,
            "seed": self.seed,
            "sanity": self.sanity,
            **self.setting.config(),
        }

    def is_complete(self) -> bool:
        return is_json(self.folder / RESULT) and (self.folder / MASK).is_file()

    def run(self, accelerator: Accelerator) -> None:
        model, data = self.setting.make(self.seed, accelerator)
        recipe = self.setting.make_recipe()
        start = time.perf_counter()
        mask = self._mask(model, data, accelerator)
        masked = time.perf_counter()
        if self.sanity == "reinitialized":
            model, _ = self.setting.make(reinitialized(self.seed), accelerator)
        steps = len(data.training(recipe.batch_size)) * recipe.epochs
        with progress(self.folder, steps, self.label, accelerator.is_main_process) as bar:
            checkpoint = Checkpoint(self.folder / "checkpoint.pt", "train", write=accelerator.is_main_process)
            history = train(
                model, mask, data, recipe, accelerator, seed=self.seed, resume=checkpoint, progress=bar.update
            )
        result = {
            **self.config(),
            "criterion_kind": "autos" if self.learned else self.criterion,
            "labels_from": self._labels_from(),
            "same_initialization": self._same_initialization(),
            "kept": mask.count,
            "parameters": mask.layout.size,
            "density": mask.density,
            "layer_densities": mask.layer_densities(),
            "empty_layers": mask.empty_layers(),
            **summarize(history),
            "history": history,
            "seconds": {"mask": masked - start, "train": time.perf_counter() - masked},
            "versions": provenance.versions(),
        }
        log.info(
            "%s at %g%%, seed %d: accuracy %.2f%%", self.label, 100 * self.sparsity, self.seed, 100 * result["accuracy"]
        )
        if accelerator.is_main_process:
            write_json(self.folder / RESULT, result)
        accelerator.wait_for_everyone()
        checkpoint.remove()

    def _mask(self, model: nn.Module, data: ImageData, accelerator: Accelerator) -> Mask:
        """The mask to train with, chosen once: a run that goes on, and every process of it, reads what was saved."""
        path = self.folder / MASK
        # one looks, for all: on a network file system another process may not see yet what is there
        if not broadcast_object_list([accelerator.is_main_process and path.is_file()])[0]:
            full = Mask.full(Layout.of(model), accelerator.device)
            criterion = find_criterion(self.criterion, self.seed, self.rounds)
            k = keep_count(1.0 - self.sparsity, full.layout.size)
            batches = data.scoring(SCORING_BATCH, self.setting.grad_batches)
            mask = select(inverted(criterion, k) if self.sanity == "inverted" else criterion, model, full, batches, k)
            if self.sanity == "shuffled":
                mask = shuffled(mask, self.seed)
            if accelerator.is_main_process:
                mask.save(path)
            accelerator.wait_for_everyone()
        return Mask.load(path).to(accelerator.device)

    def _labels_from(self) -> list[dict[str, Any]]:
        """The runs whose labels the criterion was fitted to; none for one that is not learned."""
        if not self.learned:
            return []
        runs = read_json(self._saved / CARD)["card"]["runs"]
        return [
            {key: run.get(key) for key in ("network", "dataset", "criterion", "iterations", "seed")} for run in runs
        ]

    def _same_initialization(self) -> bool:
        """Whether labels came from the very initial weights that are pruned here."""
        here = {"network": self.setting.network, "seed": self.seed}
        return any({key: run[key] for key in here} == here for run in self._labels_from())
