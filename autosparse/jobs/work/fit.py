"""What a fit of AutoS does beside the fit itself: measure it, tabulate it, save it."""

import logging
import time
from typing import Any

from accelerate import Accelerator

from autosparse.autos import (
    IterationSamples,
    Samples,
    StoredSamples,
    fit,
    read_iterations,
    tabulate_held_out,
    validate,
)
from autosparse.autos.autos import gradient_mode
from autosparse.autos.fit import number_of_steps
from autosparse.cluster import provenance
from autosparse.cluster.progress import progress
from autosparse.jobs.fit import FitRun
from autosparse.jobs.tracking import tracking
from autosparse.jobs.work.remeasure import remeasure
from autosparse.store import Counters, TripleStore
from autosparse.training import Checkpoint

_SHOWN = ("run", "mse", "variance", "spearman")
log = logging.getLogger(__name__)


def run(job: FitRun, accelerator: Accelerator) -> None:
    """Fit, measure what was held out, tabulate, save."""
    start = time.perf_counter()
    samples = _samples(job, accelerator)
    an_epoch = len(samples.batches(accelerator))
    steps = number_of_steps(job.config, an_epoch)
    epochs = -(-steps // an_epoch)
    reading = Counters()
    with (
        progress(job.folder, steps, "fit", accelerator.is_main_process) as bar,
        tracking(job.track, job.folder, job.identity(), accelerator.is_main_process) as tracked,
    ):

        def follow(steps: int, counters: Counters) -> None:
            nonlocal reading
            reading = counters
            bar.update(steps, str(counters))

        def tell(epoch: int, loss: float) -> None:
            bar.tell(epoch, epochs, "loss", loss)
            tracked.log("epoch", epoch, {"fit/loss": loss})

        checkpoint = Checkpoint(job.folder / "checkpoint.pt", "fit", write=accelerator.is_main_process)
        autos = fit(samples, accelerator, resume=checkpoint, progress=follow, after_epoch=tell)
    log.info("%s", reading)
    seconds = time.perf_counter() - start
    metrics = [{"run": run, **validate(autos, samples, k)} for k, run in enumerate(job.runs)]
    autos.card |= {"held_out": metrics, "seconds": {"fit": seconds}, "versions": provenance.versions()}
    if job.leave_one_out:
        autos.card["leave_one_out"] = [
            {"run": run, **_without(job, k, samples, accelerator)} for k, run in enumerate(job.runs)
        ]
    for of in metrics:
        log.info("held out of %s: MSE %.5f, a constant's %.5f, Spearman %.3f", *(of[k] for k in _SHOWN))
        if of["mse"] >= of["variance"]:
            log.warning("on %s the fit is no better than a constant: more --epochs, or more --runs", of["run"])
    if accelerator.is_main_process:
        table = tabulate_held_out(autos, samples)
        log.info("lookup table: %s nodes, off by %.1e at most", tuple(table.values.shape), table.error["max"])
        table.save(job.folder)  # before the network, which says that the run is complete
        autos.save(job.folder)
    accelerator.wait_for_everyone()
    checkpoint.remove()


def _samples(job: FitRun, accelerator: Accelerator) -> Samples:
    """Make the samples that the fit is to."""
    stores = [TripleStore.open(run) for run in job.runs]
    gradient_mode([store.run for store in stores])  # all must be the same
    if not job.config.by_states:
        return StoredSamples(stores, job.config, job.threads)
    if job.config.recomputed:
        runs = [remeasure(store, job.config, job.data_root, accelerator) for store in stores]
    else:
        runs = [read_iterations(store, job.config) for store in stores]
    return IterationSamples(stores, job.config, runs)


def _without(job: FitRun, left_out: int, samples: Samples, accelerator: Accelerator) -> dict[str, Any]:
    """Metrics on one run of a fit to the others."""
    others = [run for run in range(len(job.runs)) if run != left_out]
    path = job.folder / f"checkpoint-without-{left_out}.pt"
    checkpoint = Checkpoint(path, "fit", write=accelerator.is_main_process)
    autos = fit(samples.only(others), accelerator, resume=checkpoint)
    metrics = validate(autos, samples, left_out, part="all")
    accelerator.wait_for_everyone()
    checkpoint.remove()
    return metrics
