"""A fit of AutoS to the triples of runs of IRP."""

import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from autosparse.autos import FitConfig, fit, validate
from autosparse.autos.network import CARD, WEIGHTS
from autosparse.cluster import Job, record
from autosparse.errors import StoreError, UserError
from autosparse.store import TripleStore
from autosparse.study.runs.common import check_seed, is_json, progress_bar
from autosparse.training import Checkpoint

_SHOWN = ("run", "mse", "variance", "spearman")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitRun(Job):
    """AutoS fitted to the triples of one or several runs of IRP."""

    output: Path
    runs: tuple[Path, ...]
    how: FitConfig = field(default_factory=FitConfig)
    leave_one_out: bool = False
    name: str | None = None

    def check(self) -> None:
        """Refuse what cannot run."""
        if not self.runs:
            raise UserError("no runs to fit to; give the folders of complete runs of launch/irp.py")
        if len({run.resolve() for run in self.runs}) < len(self.runs):
            raise UserError("a run is named twice in --runs")
        if self.name is not None and self.name != Path(self.name).name:
            raise UserError(f"--name is the name of one folder, got {self.name!r}")
        if self.leave_one_out and len(self.runs) < 2:
            raise UserError("--leave-one-out needs at least two runs")
        check_seed(self.how.seed)

    @property
    def folder(self) -> Path:
        first = self.runs[0].resolve()
        labels = first.parent.name if first.name == "triples.zarr" else first.name
        more = f"-and-{len(self.runs) - 1}-more" if len(self.runs) > 1 else ""
        how, features = self.how, self.how.features
        details = f"{how.backbone}_{features.inputs}_{features.transform}_s{how.seed}"
        return self.output / "autos" / (self.name or f"{labels}{more}_{details}")

    def config(self) -> dict[str, Any]:
        return {
            "kind": "autos",
            "stores": [TripleStore.open(run).fingerprint for run in self.runs],
            "leave_one_out": self.leave_one_out,
            **asdict(self.how),
        }

    def is_complete(self) -> bool:
        return is_json(self.folder / CARD) and (self.folder / WEIGHTS).is_file()

    def run(self, accelerator: Accelerator) -> None:
        stores = [TripleStore.open(run) for run in self.runs]
        start = time.perf_counter()
        steps = sum(len(store) for store in stores) * 9 // 10 // self.how.batch_size * self.how.epochs
        with progress_bar(steps, "fit", accelerator) as bar:
            checkpoint = Checkpoint(self.folder / "checkpoint.pt", "fit", write=accelerator.is_main_process)
            autos = fit(stores, self.how, accelerator, resume=checkpoint, progress=bar.update)
        seconds = time.perf_counter() - start
        metrics = [{"run": str(run), **validate(autos, store, self.how.seed)} for run, store in self._pairs(stores)]
        autos.card |= {"held_out": metrics, "seconds": {"fit": seconds}, "versions": record.versions()}
        if self.leave_one_out:
            autos.card["leave_one_out"] = [
                {"run": str(run), **self._without(store, stores, accelerator)} for run, store in self._pairs(stores)
            ]
        for of in metrics:
            log.info("held out of %s: MSE %.5f of %.5f, Spearman %.3f", *(of[k] for k in _SHOWN))
        if accelerator.is_main_process:
            autos.save(self.folder)
        accelerator.wait_for_everyone()
        checkpoint.remove()

    def _pairs(self, stores: list[TripleStore]) -> list[tuple[Path, TripleStore]]:
        return list(zip(self.runs, stores, strict=True))

    def _without(self, left_out: TripleStore, stores: list[TripleStore], accelerator: Accelerator) -> dict[str, Any]:
        """Metrics on one run of a fit to the others."""
        others = [store for store in stores if store is not left_out]
        return validate(fit(others, self.how, accelerator), left_out, part="all")


def complete_store(folder: Path) -> Path:
    """The folder, if it holds the complete triples of a run.

    Raises:
        UserError: it does not.
    """
    if inside := sorted(path.parent for path in folder.glob("*/triples.zarr")):
        raise UserError(f"{folder} holds runs and is none; name them: --runs {' '.join(map(str, inside[:3]))} ...")
    try:
        TripleStore.open(folder)
    except StoreError as error:
        raise UserError(f"cannot fit to {folder}: {error}") from None
    return folder
