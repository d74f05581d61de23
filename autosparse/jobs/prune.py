"""A network pruned at initialization and trained."""

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosparse import registry
from autosparse.cluster import records
from autosparse.cluster.records import progress
from autosparse.config import SHIPPED, PruneConfig, folder_of, is_folder
from autosparse.criteria.table import AHEAD, DYNAMIC, LOOK_AHEAD, ROWS, check_options
from autosparse.errors import UserError, unknown
from autosparse.files import is_json, read_json, write_json
from autosparse.jobs.base import TrainingRun
from autosparse.jobs.tracking import Tracking, epoch_values
from autosparse.metrics import described
from autosparse.options import option_values
from autosparse.pruning.schedule import keep_count

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from autosparse.criteria import Chooser, Criterion
    from autosparse.pruning import Mask
    from autosparse.tasks import Data
    from autosparse.tasks.recipe import Recipe
    from autosparse.training import Epoch
    from autosparse.training.dynamic import MaskUpdateCallback

_LABEL_KEYS = ("network", "dataset", "criterion", "iterations", "seed")  # what a result says of a run of labels
RESULT, MASK, OWN_STEPS = "result.json", "mask.safetensors", "own_steps.json"
log = logging.getLogger(__name__)


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
        if self._is_function and isinstance(registry.resolve(c.criterion, "criterion", {}), type):
            raise UserError(f"the criterion {c.criterion} is a class; give an instance of it")
        super().check()
        if self.learned and not self.missing():
            from autosparse.autos import AutoSCriterion

            AutoSCriterion.load(self.saved)

    @property
    def learned(self) -> bool:
        """True if the criterion is a saved AutoS."""
        return (self.config.criterion in SHIPPED or self.config.criterion not in ROWS) and not self._is_function

    @property
    def dynamic(self) -> bool:
        """True if the mask is chosen during training."""
        return self.config.criterion in DYNAMIC

    @property
    def looks_ahead(self) -> bool:
        """True if the criterion trains some steps ahead; False for an AutoS that does not exist yet."""
        if not self.learned or self.missing():
            return self.config.criterion in LOOK_AHEAD
        from autosparse.autos import AutoSCriterion

        return AutoSCriterion.load(self.saved).looks_ahead

    def make_recipe(self) -> "Recipe":
        """Return the recipe of the task, stretched to the number of training runs."""
        recipe = self.setting.make_recipe()
        return recipe.with_epochs(self.config.trainings * recipe.epochs)

    @property
    def _is_function(self) -> bool:
        """True if the criterion is a function of the user's, given by its place."""
        return registry.is_path(self.config.criterion)

    @property
    def label(self) -> str:
        """Name of the criterion in folders and tables."""
        longer = f"-x{self.config.trainings}" if self.config.trainings > 1 else ""
        if self.config.sparsity == 0:
            return f"dense{longer}"
        rounds = f"-r{self.config.rounds}" if self.config.rounds else ""
        steps = f"-k{self.config.steps}" if self.config.steps else ""
        name = f"autos-{self.saved.resolve().name}" if self.learned else self.config.criterion.rpartition(":")[2]
        batch_norm = "" if self.config.batch_norm == "batch" else f"-{self.config.batch_norm}"
        return f"{name}{rounds}{steps}{batch_norm}{longer}"

    @property
    def saved(self) -> Path:
        """Folder of the AutoS, if the criterion is one."""
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

    def identity(self) -> dict[str, Any]:
        code = {"criterion_code": registry.digest_of(self.config.criterion)} if self._is_function else {}
        return {**super().identity(), "criterion": self.label, "autos": self._fingerprint(), **code}

    def sources(self) -> list[Path]:
        return super().sources() + ([registry.source_of(self.config.criterion)] if self._is_function else [])

    def _fingerprint(self) -> str | None:
        """Return the digest of the saved AutoS; None for a criterion that is not learned."""
        if not self.learned:
            return None
        from autosparse.autos import AutoS

        return AutoS.fingerprint(self.saved)

    def is_complete(self) -> bool:
        return is_json(self.folder / RESULT) and (self.folder / MASK).is_file()

    def run(self, accelerator: "Accelerator") -> None:
        from autosparse.api import find_criterion
        from autosparse.jobs.sanity import reinitialized
        from autosparse.pruning import Mask
        from autosparse.training import Checkpoint, summarize, train

        config, main = self.config, accelerator.is_main_process
        model, data = self.setting.make(config.seed, accelerator)
        recipe = self.make_recipe()
        steps = len(data.training(recipe.batch_size)) * recipe.epochs
        start = time.perf_counter()
        full = Mask.full(self.setting.layout(model), accelerator.device)
        dynamic = self._dynamic(full, steps)
        criterion = None
        if not self.dynamic:
            criterion = find_criterion(config.criterion, config.seed, config.rounds, config.batch_norm)
        rounds, ahead = self._ahead(criterion, steps // config.trainings)
        with (
            progress(self.folder, rounds * ahead + steps, self.label, main) as bar,
            Tracking(self.track, self.folder, self.identity(), main) as tracked,
        ):

            def after_epoch(epoch: "Epoch") -> None:
                bar.tell(epoch["epoch"], recipe.epochs, epoch["metric"], epoch["test"])
                tracked.log("epoch", epoch["epoch"], epoch_values(epoch, recipe.rate(epoch["epoch"] - 1)))

            mask = self._mask(criterion, rounds, ahead, full, model, data, accelerator, bar.update)
            if self._is_function:
                rounds, ahead = 1, read_json(self.folder / OWN_STEPS)["steps"]
            mask_end = time.perf_counter()
            if config.sanity == "reinitialized":
                model = self.setting.make_model(reinitialized(config.seed), accelerator)
            checkpoint = Checkpoint(self.folder / "checkpoint.pt", "train", write=main)
            history = train(
                model,
                mask,
                data,
                recipe,
                accelerator,
                seed=config.seed,
                resume=checkpoint,
                progress=bar.update,
                after_epoch=after_epoch,
                callback=dynamic,
            )
        if dynamic:
            mask = dynamic.mask
            if main:
                mask.save(self.folder / MASK)
        result = {
            **self.identity(),
            "criterion_kind": "autos" if self.learned else self.label,
            "labels_from": [{key: run.get(key) for key in _LABEL_KEYS} for run in self._label_runs()],
            "same_initialization": self._same_initialization(),
            "cost": config.trainings * (1 + rounds * ahead / steps),  # in full training runs
            "ahead": {"rounds": rounds, "steps": ahead},
            "kept": mask.count,
            "parameters": mask.layout.size,
            "density": mask.density,
            "layer_densities": mask.layer_densities(),
            "empty_layers": mask.empty_layers(),
            **summarize(history, data.better),
            "history": history,
            "seconds": {"mask": mask_end - start, "train": time.perf_counter() - mask_end},
            "versions": records.versions(),
        }
        metric = described(result["metric"], result["test"])
        log.info("%s at %g%%, seed %d: %s", self.label, 100 * config.sparsity, config.seed, metric)
        if main:
            write_json(self.folder / RESULT, result)
        accelerator.wait_for_everyone()
        checkpoint.remove()

    def _dynamic(self, full: "Mask", steps: int) -> "MaskUpdateCallback | None":
        """Return the callback that changes the mask during a training run of `steps` steps; None for other criteria."""
        from autosparse.training.dynamic import GradualMagnitude, RigL

        match self.config.criterion:
            case "gmp":
                return GradualMagnitude(keep_count(1.0 - self.config.sparsity, full.layout.size), steps)
            case "rigl":
                return RigL(steps)
        return None

    def _ahead(self, criterion: "Criterion | Chooser | None", training: int) -> tuple[int, int]:
        """Return the rounds in which a criterion looks ahead and the steps of each; 0 and 0 if it does not.

        By default all rounds together have the `training` steps of one training.
        """
        from autosparse.autos import AutoSCriterion
        from autosparse.criteria.rounds import Rounds

        if isinstance(criterion, AutoSCriterion) and criterion.looks_ahead:
            rounds = criterion.number_of_rounds
        elif self.config.criterion in LOOK_AHEAD:
            rounds = criterion.rounds if isinstance(criterion, Rounds) else 1
        else:
            return 0, 0
        return rounds, self.config.steps or max(1, training // rounds)

    def _mask(
        self,
        criterion: "Criterion | Chooser | None",
        rounds: int,
        ahead: int,
        full: "Mask",
        model: "nn.Module",
        data: "Data",
        accelerator: "Accelerator",
        progress: Callable[[int], object],
    ) -> "Mask":
        """Return the mask to train with, chosen once: a resumed run, and every process, reads the saved mask."""
        from accelerate.utils import broadcast_object_list

        from autosparse.criteria import Scoring, select
        from autosparse.criteria.data_free import RandomERK
        from autosparse.criteria.gradient import recorded_steps, restoring_model
        from autosparse.jobs.sanity import Inverted, shuffled
        from autosparse.lookahead import RecipeLearner
        from autosparse.pruning import Mask

        config = self.config
        k = keep_count(1.0 - config.sparsity, full.layout.size)
        if config.criterion == "rigl":  # The saved mask is that of the end.
            return select(RandomERK(config.seed), model, full, Scoring(), k)
        if criterion is None:
            return full
        path = self.folder / MASK
        learner = None
        if rounds:
            recipe = self.setting.make_recipe()
            learner = RecipeLearner(data, recipe, accelerator, ahead, config.seed, self.folder, progress)
        # One process looks: on a network file system another one may not see the file yet.
        if broadcast_object_list([accelerator.is_main_process and path.is_file()])[0]:
            progress(rounds * ahead)
        else:
            batches = data.scoring(limit=self.setting.grad_batches)
            scoring = Scoring(batches, batches.loss, learner)
            inverted = config.sanity == "inverted"
            with restoring_model(model) if self._is_function else nullcontext(), recorded_steps() as own_steps:
                mask = select(Inverted(criterion) if inverted else criterion, model, full, scoring, k)
            if config.sanity == "shuffled":
                mask = shuffled(mask, config.seed)
            if accelerator.is_main_process:
                if self._is_function:
                    write_json(self.folder / OWN_STEPS, {"steps": len(own_steps)})
                mask.save(path)
            accelerator.wait_for_everyone()
        if learner:
            learner.forget()
        return Mask.load(path).to(accelerator.device)

    def _label_runs(self) -> list[dict[str, Any]]:
        """Return the runs whose labels the criterion was fitted to; none if it is not learned."""
        from autosparse.autos.autos import CARD

        return read_json(self.saved / CARD)["card"]["runs"] if self.learned else []

    def _same_initialization(self) -> bool:
        """Return True if labels came from the same initial weights that are pruned here.

        The initial weights of images are the same on other data. For other tasks, any field may decide them.
        """
        from autosparse.tasks import Images

        task, network = self.setting.task, self.setting.resolved()["network"]
        wanted = {"network": network, "seed": self.config.seed, "init": task.resolved().get("init")}
        if type(task) is Images:
            wanted["fan"] = task.fan
        else:
            wanted |= {"task": self.setting.task_name, **option_values(task, identity=True)}
        return any({key: run.get(key) for key in wanted} == wanted for run in self._label_runs())
