"""A fit of AutoS to the triples of runs of IRP."""

import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from autosparse.autos import FitConfig, Samples, StoredSamples, TrajectorySamples, fit, tabulate_held_out, validate
from autosparse.autos.autos import CARD, WEIGHTS, gradient_mode
from autosparse.autos.fit import number_of_steps
from autosparse.cluster import Job, provenance
from autosparse.cluster.progress import progress
from autosparse.errors import StoreError, UserError
from autosparse.jobs.common import check_seed, is_json
from autosparse.jobs.remeasure import remeasure, setting_of
from autosparse.store import Counters, TripleStore
from autosparse.training import Checkpoint

_SHOWN = ("run", "mse", "variance", "spearman")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitRun(Job):
    """AutoS fitted to the triples of one or several runs of IRP."""

    output: Path
    runs: tuple[str, ...]
    how: FitConfig = field(default_factory=FitConfig)
    leave_one_out: bool = False
    name: str | None = None
    threads: int = 2
    data_root: Path | None = None

    def check(self) -> None:
        """Refuse what cannot run."""
        if not self.runs:
            raise UserError("no runs to fit to; give the folders of complete runs of launch/irp.py")
        for run in self.runs:
            if "://" not in run and (inside := sorted(path.parent for path in Path(run).glob("*/triples.zarr"))):
                raise UserError(f"{run} holds runs and is none; name them: --runs {' '.join(map(str, inside[:3]))} ...")
        if len({_parts(run) for run in self.runs}) < len(self.runs):
            raise UserError("a run is named twice in --runs; to have it come more often use --weights")
        if self.how.weights and len(self.how.weights) != len(self.runs):
            raise UserError(f"--weights: {len(self.how.weights)} for {len(self.runs)} runs; give one for each")
        if self.threads < 0:
            raise UserError(f"--threads must be 0 or more, got {self.threads}")
        if self.name is not None and self.name != Path(self.name).name:
            raise UserError(f"--name is the name of one folder, got {self.name!r}")
        if self.leave_one_out and len(self.runs) < 2:
            raise UserError("--leave-one-out needs at least two runs")
        check_seed(self.how.seed)
        if self.how.by_states and not self.missing():
            for run in self.runs:
                setting_of(TripleStore.open(run), self.data_root)

    @property
    def folder(self) -> Path:
        *_, above, last = _parts(self.runs[0])
        labels = above if last == "triples.zarr" else last
        more = f"-and-{len(self.runs) - 1}-more" if len(self.runs) > 1 else ""
        how, features = self.how, self.how.features
        label = f"_{how.label}" if how.label != "share" else ""
        samples = f"_n{how.samples}" if how.samples else ""
        rounds = f"_r{how.rounds}" if how.rounds > 1 else ""
        details = f"{how.backbone}_{features.inputs}_{features.transform}{label}{samples}{rounds}_s{how.seed}"
        return self.output / "autos" / (self.name or f"{labels}{more}_{details}")

    def missing(self) -> str | None:
        for run in self.runs:
            try:
                TripleStore.open(run)
            except StoreError as error:
                return f"cannot fit to {run}: {error}"
        return None

    def config(self) -> dict[str, Any]:
        return {
            "kind": "autos",
            "stores": [TripleStore.open(run).fingerprint for run in self.runs],
            "leave_one_out": self.leave_one_out,
            **asdict(self.how),
            "weights": [*self.how.weights],
        }

    def is_complete(self) -> bool:
        return is_json(self.folder / CARD) and (self.folder / WEIGHTS).is_file()

    def run(self, accelerator: Accelerator) -> None:
        start = time.perf_counter()
        samples = self._samples(accelerator)
        steps = number_of_steps(self.how, len(samples.batches(accelerator)))
        reading = Counters()
        with progress(self.folder, steps, "fit", accelerator.is_main_process) as bar:

            def follow(steps: int, counters: Counters) -> None:
                nonlocal reading
                reading = counters
                bar.update(steps, str(counters))

            checkpoint = Checkpoint(self.folder / "checkpoint.pt", "fit", write=accelerator.is_main_process)
            autos = fit(samples, accelerator, resume=checkpoint, progress=follow)
        log.info("%s", reading)
        seconds = time.perf_counter() - start
        metrics = [{"run": run, **validate(autos, samples, k)} for k, run in enumerate(self.runs)]
        autos.card |= {"held_out": metrics, "seconds": {"fit": seconds}, "versions": provenance.versions()}
        if self.leave_one_out:
            autos.card["leave_one_out"] = [
                {"run": run, **self._without(k, samples, accelerator)} for k, run in enumerate(self.runs)
            ]
        for of in metrics:
            log.info("held out of %s: MSE %.5f of %.5f, Spearman %.3f", *(of[k] for k in _SHOWN))
        if accelerator.is_main_process:
            surface = tabulate_held_out(autos, samples)
            log.info("surface: %s nodes, off by %.1e at most", tuple(surface.table.shape), surface.error["max"])
            surface.save(self.folder)  # before the network, which says that the run is complete
            autos.save(self.folder)
        accelerator.wait_for_everyone()
        checkpoint.remove()

    def _samples(self, accelerator: Accelerator) -> Samples:
        """What is fitted to."""
        stores = [TripleStore.open(run) for run in self.runs]
        gradient_mode([store.run for store in stores])  # all must be the same
        if not self.how.by_states:
            return StoredSamples(stores, self.how, self.threads)
        states = [remeasure(store, self.how, self.data_root, accelerator) for store in stores]
        return TrajectorySamples(stores, self.how, states)

    def _without(self, left_out: int, samples: Samples, accelerator: Accelerator) -> dict[str, Any]:
        """Metrics on one run of a fit to the others."""
        others = [run for run in range(len(self.runs)) if run != left_out]
        path = self.folder / f"checkpoint-without-{left_out}.pt"
        checkpoint = Checkpoint(path, "fit", write=accelerator.is_main_process)
        autos = fit(samples.only(others), accelerator, resume=checkpoint)
        metrics = validate(autos, samples, left_out, part="all")
        accelerator.wait_for_everyone()
        checkpoint.remove()
        return metrics


def _parts(run: str) -> tuple[str, ...]:
    """The parts of a path or URL."""
    return tuple(run.rstrip("/").split("/")) if "://" in run else Path(run).resolve().parts
