"""A fit of AutoS to the triples of runs of IRP."""

import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from autosparse.cluster import records
from autosparse.cluster.records import progress
from autosparse.config import NO_IDENTITY, Bounds, FitConfig
from autosparse.errors import StoreError, UserError
from autosparse.files import is_json, read_json
from autosparse.jobs.base import TrackedRun, TrainingOptions, make_task, task_words
from autosparse.jobs.tracking import Tracking

if TYPE_CHECKING:
    from accelerate import Accelerator

    from autosparse.autos import Samples
    from autosparse.store import TripleStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FitRun(TrackedRun):
    """AutoS fitted to the triples of one or several runs of IRP."""

    kind = "autos"

    runs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FOLDER...")] = field(metadata=NO_IDENTITY)
    """Folders of runs of `autosparse irp`, or s3:// URLs of their stores; complete, or made by the jobs that this one
    waits for."""
    config: FitConfig = field(default_factory=FitConfig)
    leave_one_out: bool = False
    """Also fit without each run in turn, and report how well that fit predicts the run."""
    threads: Annotated[int, Bounds(0)] = field(default=2, metadata=NO_IDENTITY)
    """Number of threads that read ahead, in each process."""
    data_root: Path | None = field(default=None, metadata=NO_IDENTITY)
    """Folder of the .npz files of the data sets, for rounds and flow. Default: $AUTOSPARSE_DATA, or else data."""
    name: str | None = field(default=None, metadata=NO_IDENTITY)
    """Name of the folder. Default: made from the options."""

    def check(self) -> None:
        super().check()
        if self.name and (os.sep in self.name or self.name in (os.curdir, os.pardir)):
            raise UserError(f"name must name one folder in {self.output / 'autos'}, not a path, got {self.name}")
        if not self.runs:
            raise UserError("no runs to fit to; give the folders of complete runs of autosparse irp")
        for run in self.runs:
            if "://" not in run and (inside := sorted(path.parent for path in Path(run).glob("*/triples.zarr"))):
                raise UserError(
                    f"{run} is a folder of runs, not a run; name them: {' '.join(map(str, inside[:3]))} ..."
                )
        if len({_parts(run) for run in self.runs}) < len(self.runs):
            raise UserError("a run is named twice; to have it come more often give it a weight")
        if (weights := len(self.config.weights)) not in (0, len(self.runs)):
            raise UserError(f"there are {weights} weights for {len(self.runs)} runs; give one for each")
        if self.leave_one_out and len(self.runs) < 2:
            raise UserError("leaving one out needs at least two runs")
        self.absent()  # Raises if tasks or data have changed; other jobs may still make what is missing.

    @property
    def folder(self) -> Path:
        *_, above, last = ("", *_parts(self.runs[0]))
        labels = above if last == "triples.zarr" else last
        more = f"-and-{len(self.runs) - 1}-more" if len(self.runs) > 1 else ""
        how = self.config
        label = f"_{how.label}" if how.label != "share" else ""
        samples = f"_n{how.samples}" if how.samples else ""
        rounds = f"_r{how.rounds}" if how.rounds > 1 else ""
        details = f"{how.backbone}_{'+'.join(how.features)}_{how.transform}{label}{samples}{rounds}_s{how.seed}"
        return self.output / "autos" / (self.name or f"{labels}{more}_{details}")

    def missing(self) -> str | None:
        from autosparse.store import TripleStore

        for run in self.runs:
            if "://" not in run and not Path(run).exists():
                return f"cannot fit to {run}: it does not exist; name the folder of a complete run of autosparse irp"
            try:
                TripleStore.open(run)
            except StoreError as error:
                return f"cannot fit to {run}: {error}"
        return None

    def absent(self) -> str | None:
        """Also refuse runs whose task or data have changed."""
        if not self.config.recomputed or self.missing():
            return None
        from autosparse.store import TripleStore

        absent = [_setting(TripleStore.open(run), self.data_root).task.absent() for run in self.runs]
        return next(filter(None, absent), None)

    def identity(self) -> dict[str, Any]:
        from autosparse.store import TripleStore

        return {**super().identity(), "stores": [TripleStore.open(run).fingerprint for run in self.runs]}

    def is_complete(self) -> bool:
        from autosparse.autos.autos import CARD, WEIGHTS

        return is_json(self.folder / CARD) and (self.folder / WEIGHTS).is_file()

    def no_better_than_a_constant(self) -> list[str]:
        """Return the runs on whose held-out parameters a complete fit is no better than a constant."""
        from autosparse.autos.autos import CARD

        rows = read_json(self.folder / CARD)["card"]["held_out"] if self.is_complete() else []
        return [row["run"] for row in rows if row["mse"] >= row["variance"]]

    def prune_command(self) -> list[str]:
        """Return the command that prunes the task of the first run by this fit, and by SNIP for comparison."""
        from autosparse.store import TripleStore

        command = ["autosparse", "prune", "--criteria", str(self.folder), "snip"]
        if self.missing() or "task_path" not in (run := TripleStore.open(self.runs[0]).run):
            return command
        try:
            return [*command, *task_words(make_task(run, self.data_root))]
        except UserError:  # The file of the task has changed, or is not here; a fit does not need it.
            return command

    def run(self, accelerator: "Accelerator") -> None:
        from autosparse.autos import fit, tabulate_held_out, validate
        from autosparse.autos.fit import number_of_steps
        from autosparse.store import Counters
        from autosparse.training import Checkpoint

        main = accelerator.is_main_process
        start = time.perf_counter()
        samples = self._samples(accelerator)
        an_epoch = len(samples.batches(accelerator))
        steps = number_of_steps(self.config, an_epoch)
        epochs = -(-steps // an_epoch)
        reading = Counters()
        with (
            progress(self.folder, steps, "fit", main) as bar,
            Tracking(self.track, self.folder, self.identity(), main) as tracked,
        ):

            def after_steps(steps: int, counters: Counters) -> None:
                nonlocal reading
                reading = counters
                bar.update(steps, str(counters))

            def after_epoch(epoch: int, loss: float) -> None:
                bar.tell(epoch, epochs, "loss", loss)
                tracked.log("epoch", epoch, {"fit/loss": loss})

            checkpoint = Checkpoint(self.folder / "checkpoint.pt", "fit", write=main)
            autos = fit(samples, accelerator, resume=checkpoint, progress=after_steps, after_epoch=after_epoch)
        log.info("%s", reading)
        seconds = time.perf_counter() - start
        metrics = [{"run": run, **validate(autos, samples, k)} for k, run in enumerate(self.runs)]
        autos.card |= {"held_out": metrics, "seconds": {"fit": seconds}, "versions": records.versions()}
        if self.leave_one_out:
            autos.card["leave_one_out"] = [
                {"run": run, **self._fit_without(k, samples, accelerator)} for k, run in enumerate(self.runs)
            ]
        for row in metrics:
            values = [row[key] for key in ("run", "mse", "variance", "spearman")]
            log.info("held out of %s: MSE %.5f, a constant's %.5f, Spearman %.3f", *values)
            if row["mse"] >= row["variance"]:
                log.warning("on %s the fit is no better than a constant: more --epochs or more --runs", row["run"])
        if main:
            table = tabulate_held_out(autos, samples)
            log.info("lookup table: %s nodes, off by %.1e at most", tuple(table.values.shape), table.error["max"])
            table.save(self.folder)  # Before the network, whose file marks the run as complete.
            autos.save(self.folder)
        accelerator.wait_for_everyone()
        checkpoint.remove()

    def _samples(self, accelerator: "Accelerator") -> "Samples":
        """Return the samples of the fit; every process makes the same ones."""
        from autosparse.autos import IterationSamples, StoredSamples, measure_iterations, read_iterations
        from autosparse.autos.autos import gradient_mode
        from autosparse.criteria import Scoring
        from autosparse.store import TripleStore

        config = self.config
        stores = [TripleStore.open(run) for run in self.runs]
        gradient_mode([store.run for store in stores])  # Raises if the runs differ.
        if not config.by_states:
            return StoredSamples(stores, config, self.threads)
        runs = []
        for store in stores:
            if not config.recomputed:
                runs.append(read_iterations(store, config))
                continue
            setting = _setting(store, self.data_root)
            model, data = setting.make(store.run["seed"], accelerator)
            batches = data.scoring(limit=store.run["grad_batches"])
            runs.append(measure_iterations(store, model, Scoring(batches, batches.loss), config))
        return IterationSamples(stores, config, runs)

    def _fit_without(self, left_out: int, samples: "Samples", accelerator: "Accelerator") -> dict[str, Any]:
        """Return metrics on one run of a fit to the other runs."""
        from autosparse.autos import fit, validate
        from autosparse.training import Checkpoint

        others = [run for run in range(len(self.runs)) if run != left_out]
        path = self.folder / f"checkpoint-without-{left_out}.pt"
        checkpoint = Checkpoint(path, "fit", write=accelerator.is_main_process)
        autos = fit(samples.only(others), accelerator, resume=checkpoint)
        metrics = validate(autos, samples, left_out, part="all")
        accelerator.wait_for_everyone()
        checkpoint.remove()
        return metrics


def _setting(store: "TripleStore", data_root: Path | None) -> TrainingOptions:
    """Return the task of a run, to measure its network again; raise if the task or the data have changed."""
    run: dict[str, Any] = store.run
    if absent := [key for key in ("task_path", "task_fields", "data", "seed") if key not in run]:
        raise UserError(
            f"{store.storage} does not say the {absent[0]} of its run, which a fit in rounds or with flow needs"
        )
    setting = TrainingOptions(task=make_task(run, data_root))
    task = setting.task
    setting.check()
    if not task.absent() and (digest := task.digest()) != run["data"]:
        raise UserError(f"{store.storage} is of other {task.source} data than are here ({run['data']}, not {digest})")
    resolved = setting.resolved()
    for key in ("code", "network_code"):
        if resolved.get(key) != run.get(key):
            raise UserError(f"the file of {task.network} differs from that of {store.storage} ({key})")
    return setting


def _parts(run: str) -> tuple[str, ...]:
    """Return the parts of a path or URL."""
    return tuple(run.rstrip("/").split("/")) if "://" in run else Path(run).resolve().parts
