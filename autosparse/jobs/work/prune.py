"""What a run of pruning does: choose a mask, train with it, write the result."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from autosparse.api import find_criterion
from autosparse.autos import AutoSCriterion
from autosparse.autos.autos import CARD
from autosparse.cluster import provenance
from autosparse.cluster.progress import progress
from autosparse.config import settings
from autosparse.criteria import Chooser, Criterion, Scoring, select
from autosparse.criteria.erk import RandomERK
from autosparse.criteria.loss import CrossEntropy
from autosparse.criteria.rounds import Rounds
from autosparse.criteria.table import LOOK_AHEAD
from autosparse.files import read_json, write_json
from autosparse.jobs.prune import MASK, RESULT, PruneRun
from autosparse.jobs.tracking import of_epoch, tracking
from autosparse.jobs.work.sanity import Inverted, reinitialized, shuffled
from autosparse.lookahead import RecipeLearner
from autosparse.metrics import described
from autosparse.pruning import Mask
from autosparse.pruning.schedule import keep_count
from autosparse.tasks import Data, Images
from autosparse.training import Checkpoint, Epoch, summarize, train
from autosparse.training.dynamic import GradualMagnitude, MaskUpdateCallback, RigL

_TOLD = ("network", "dataset", "criterion", "iterations", "seed")  # of a run that labels came from
log = logging.getLogger(__name__)


def run(job: PruneRun, accelerator: Accelerator) -> None:
    """Choose the mask, train with it, write the result."""
    config = job.config

    model, data = job.setting.make(config.seed, accelerator)
    recipe = job.make_recipe()
    steps = len(data.training(recipe.batch_size)) * recipe.epochs
    start = time.perf_counter()
    full = Mask.full(job.setting.layout(model), accelerator.device)
    changing = _changing(job, full, steps)
    criterion = None if job.dynamic else find_criterion(config.criterion, config.seed, config.rounds, config.batch_norm)
    ahead = _ahead(job, criterion, steps // config.trainings)
    with (
        progress(job.folder, ahead.all_steps + steps, job.label, accelerator.is_main_process) as bar,
        tracking(job.track, job.folder, job.identity(), accelerator.is_main_process) as tracked,
    ):

        def tell(epoch: Epoch) -> None:
            bar.tell(epoch["epoch"], recipe.epochs, epoch["metric"], epoch["test"])
            tracked.log("epoch", epoch["epoch"], of_epoch(epoch, recipe.rate(epoch["epoch"] - 1)))

        mask = _mask(job, criterion, ahead, full, model, data, accelerator, bar.update)
        masked = time.perf_counter()
        if config.sanity == "reinitialized":
            model, _ = job.setting.make(reinitialized(config.seed), accelerator)
        checkpoint = Checkpoint(job.folder / "checkpoint.pt", "train", write=accelerator.is_main_process)
        history = train(
            model,
            mask,
            data,
            recipe,
            accelerator,
            seed=config.seed,
            resume=checkpoint,
            progress=bar.update,
            after_epoch=tell,
            callback=changing,
        )
    if changing:
        mask = changing.mask
        if accelerator.is_main_process:
            mask.save(job.folder / MASK)
    result = {
        **job.identity(),
        "criterion_kind": "autos" if job.learned else job.label,
        "labels_from": [{key: run.get(key) for key in _TOLD} for run in _labels_from(job)],
        "same_initialization": _same_initialization(job),
        "cost": config.trainings * (1 + ahead.all_steps / steps),  # trainings in all
        "ahead": {"rounds": ahead.rounds, "steps": ahead.steps},
        "kept": mask.count,
        "parameters": mask.layout.size,
        "density": mask.density,
        "layer_densities": mask.layer_densities(),
        "empty_layers": mask.empty_layers(),
        **summarize(history, data.better),
        "history": history,
        "seconds": {"mask": masked - start, "train": time.perf_counter() - masked},
        "versions": provenance.versions(),
    }
    log.info(
        "%s at %g%%, seed %d: %s",
        job.label,
        100 * config.sparsity,
        config.seed,
        described(result["metric"], result["test"]),
    )
    if accelerator.is_main_process:
        write_json(job.folder / RESULT, result)
    accelerator.wait_for_everyone()
    checkpoint.remove()


def _changing(job: PruneRun, full: Mask, steps: int) -> MaskUpdateCallback | None:
    """What changes the mask in the course of the training, if anything does."""
    match job.config.criterion:
        case "gmp":
            return GradualMagnitude(keep_count(1.0 - job.config.sparsity, full.layout.size), steps)
        case "rigl":
            return RigL(steps)
    return None


@dataclass(frozen=True)
class _Ahead:
    """How far a criterion looks ahead: rounds of so many steps; none where it does not."""

    rounds: int = 0
    steps: int = 0

    @property
    def all_steps(self) -> int:
        return self.rounds * self.steps


def _ahead(job: PruneRun, criterion: Criterion | Chooser | None, training: int) -> _Ahead:
    """As the run is asked for, or as many steps in all as one training has."""
    if isinstance(criterion, AutoSCriterion) and criterion.looks_ahead:
        rounds = criterion.number_of_rounds
    elif isinstance(criterion, Rounds) and job.config.criterion in LOOK_AHEAD:
        rounds = criterion.rounds
    else:
        return _Ahead()
    return _Ahead(rounds, job.config.steps or max(1, training // rounds))


def _mask(
    job: PruneRun,
    criterion: Criterion | Chooser | None,
    ahead: _Ahead,
    full: Mask,
    model: nn.Module,
    data: Data,
    accelerator: Accelerator,
    progress: Callable[[int], object],
) -> Mask:
    """The mask to train with, chosen once: a run that goes on, and every process of it, reads what was saved."""
    config = job.config
    k = keep_count(1.0 - config.sparsity, full.layout.size)
    if config.criterion == "rigl":  # MASK is that of the end
        return select(RandomERK(config.seed), model, full, Scoring(), k)
    if criterion is None:
        return full
    path = job.folder / MASK
    learner = None
    if ahead.rounds:
        recipe = job.setting.make_recipe()
        learner = RecipeLearner(data, recipe, accelerator, ahead.steps, config.seed, job.folder, progress)
    # one looks, for all: on a network file system another process may not see yet what is there
    if broadcast_object_list([accelerator.is_main_process and path.is_file()])[0]:
        progress(ahead.all_steps)
    else:
        batches = data.scoring(limit=job.setting.grad_batches)
        scoring = Scoring(batches, batches.loss or CrossEntropy(), learner)
        mask = select(Inverted(criterion) if config.sanity == "inverted" else criterion, model, full, scoring, k)
        if config.sanity == "shuffled":
            mask = shuffled(mask, config.seed)
        if accelerator.is_main_process:
            mask.save(path)
        accelerator.wait_for_everyone()
    if learner:
        learner.forget()
    return Mask.load(path).to(accelerator.device)


def _labels_from(job: PruneRun) -> list[dict[str, Any]]:
    """The runs whose labels the criterion was fitted to; none for one that is not learned."""
    return read_json(job.saved / CARD)["card"]["runs"] if job.learned else []


def _same_initialization(job: PruneRun) -> bool:
    """Whether labels came from the very initial weights that are pruned here.

    Those of images are the same on other data; of a task of one's own nobody knows which fields they depend on.
    """
    task = job.setting.task
    here = {"network": task.network, "seed": job.config.seed}
    if type(task) is not Images:
        here |= {"task": job.setting.task_name, **settings(task)}
    return any({key: run.get(key) for key in here} == here for run in _labels_from(job))
