"""What a run of pruning does: choose a mask, train with it, write the result."""

import logging
import time
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from autosparse.api import find_criterion
from autosparse.autos.autos import CARD
from autosparse.cluster import provenance
from autosparse.cluster.progress import progress
from autosparse.config import settings
from autosparse.criteria import select
from autosparse.data import Data
from autosparse.files import read_json, write_json
from autosparse.jobs.prune import MASK, RESULT, PruneRun
from autosparse.jobs.work.sanity import inverted, reinitialized, shuffled
from autosparse.metrics import described
from autosparse.pruning import Mask
from autosparse.pruning.schedule import keep_count
from autosparse.tasks import Images
from autosparse.training import Checkpoint, summarize, train

_TOLD = ("network", "dataset", "criterion", "iterations", "seed")  # of a run that labels came from
log = logging.getLogger(__name__)


def run(job: PruneRun, accelerator: Accelerator) -> None:
    """Choose the mask, train with it, write the result."""
    config = job.config

    model, data = job.setting.make(config.seed, accelerator)
    recipe = job.setting.make_recipe()
    start = time.perf_counter()
    mask = _mask(job, model, data, accelerator)
    masked = time.perf_counter()
    if config.sanity == "reinitialized":
        model, _ = job.setting.make(reinitialized(config.seed), accelerator)
    steps = len(data.training(recipe.batch_size)) * recipe.epochs
    with progress(job.folder, steps, job.label, accelerator.is_main_process) as bar:
        checkpoint = Checkpoint(job.folder / "checkpoint.pt", "train", write=accelerator.is_main_process)
        history = train(
            model, mask, data, recipe, accelerator, seed=config.seed, resume=checkpoint, progress=bar.update
        )
    result = {
        **job.identity(),
        "criterion_kind": "autos" if job.learned else job.label,
        "labels_from": [{key: run.get(key) for key in _TOLD} for run in _labels_from(job)],
        "same_initialization": _same_initialization(job),
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


def _mask(job: PruneRun, model: nn.Module, data: Data, accelerator: Accelerator) -> Mask:
    """The mask to train with, chosen once: a run that goes on, and every process of it, reads what was saved."""
    config = job.config

    path = job.folder / MASK
    # one looks, for all: on a network file system another process may not see yet what is there
    if not broadcast_object_list([accelerator.is_main_process and path.is_file()])[0]:
        full = Mask.full(job.setting.layout(model), accelerator.device)
        criterion = find_criterion(config.criterion, config.seed, config.rounds, config.batch_norm)
        k = keep_count(1.0 - config.sparsity, full.layout.size)
        batches = data.scoring(limit=job.setting.grad_batches)
        mask = select(inverted(criterion, k) if config.sanity == "inverted" else criterion, model, full, batches, k)
        if config.sanity == "shuffled":
            mask = shuffled(mask, config.seed)
        if accelerator.is_main_process:
            mask.save(path)
        accelerator.wait_for_everyone()
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
    if not isinstance(task, Images):
        here |= {"task": job.setting.task_name, **settings(task)}
    return any({key: run.get(key) for key in here} == here for run in _labels_from(job))
