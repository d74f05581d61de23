"""The three kinds of run: IRP makes triples, a fit makes a criterion, pruning makes results."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from autosparse.api import check_sparsity, find_criterion, is_path
from autosparse.autos import AutoS, Features, FitConfig, fit, validate
from autosparse.autos.network import BACKBONES, CARD, WEIGHTS
from autosparse.cluster import Job, record
from autosparse.criteria import CRITERIA, make_criterion
from autosparse.data import ImageData
from autosparse.errors import StoreError, UserError, unknown
from autosparse.files import read_json, write_json
from autosparse.irp import SCORING_BATCH, rewind_pruning
from autosparse.pruning import Layout, Mask, Schedule, keep_top, make_schedule
from autosparse.pruning.schedule import keep_count
from autosparse.store import TripleStore
from autosparse.store.schema import MARKER
from autosparse.study.setting import Setting
from autosparse.training import Checkpoint, summarize, train

RESULT, MASK = "result.json", "mask.safetensors"


_SHOWN = ("run", "mse", "variance", "spearman")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IRPRun(Job):
    """Iterative rewind pruning of one network from one seed."""

    output: Path
    setting: Setting = field(default_factory=Setting)
    criterion: str = "snip"
    iterations: int = 20
    schedule: str = "geometric"
    final_sparsity: float = 0.99
    rate: float = 0.85
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot run."""
        self.setting.check()
        self.make_schedule()
        if self.criterion not in CRITERIA:
            raise unknown("criterion", self.criterion, CRITERIA)
        check_seed(self.seed)

    def make_schedule(self) -> Schedule:
        """The density after each iteration."""
        return make_schedule(self.schedule, self.iterations, self.final_sparsity, self.rate)

    @property
    def folder(self) -> Path:
        name = f"{self.setting.name}_{self.criterion}_n{self.iterations}_s{self.seed}"
        return self.output / "irp" / name

    def config(self) -> dict[str, Any]:
        return {
            "kind": "irp",
            "criterion": self.criterion,
            "iterations": self.iterations,
            "schedule": self.schedule,
            **({"rate": self.rate} if self.schedule == "constant" else {"final_sparsity": self.final_sparsity}),
            "seed": self.seed,
            **self.setting.config(),
        }

    def is_complete(self) -> bool:
        if not (self.folder / "triples.zarr" / MARKER).is_file():
            return False
        TripleStore.open(self.folder)  # a damaged store is an error, not a reason to run again over it
        history = self.folder / "history.json"
        if not history.is_file() or len(read_json(history)) != self.iterations + 1:
            raise UserError(f"{history} is missing or damaged; delete the run and run it again")
        return True

    def run(self, accelerator: Accelerator) -> None:
        model, data = self.setting.make(self.seed, accelerator)
        recipe = self.setting.make_recipe()
        steps = len(data.training(recipe.batch_size)) * recipe.epochs * (self.iterations + 1)
        with _bar(steps, "irp", accelerator) as bar:
            rewind_pruning(
                model,
                data,
                make_criterion(self.criterion, self.seed),
                self.make_schedule(),
                recipe,
                self.folder,
                accelerator,
                seed=self.seed,
                grad_batches=self.setting.grad_batches,
                run={**self.config(), "versions": record.versions(), "commit": record.git_commit()},
                progress=bar.update,
            )


@dataclass(frozen=True)
class FitRun(Job):
    """AutoS fitted to the triples of one or several runs of IRP."""

    output: Path
    runs: tuple[Path, ...]
    backbone: str = "mlp"
    inputs: str = "both"
    features: str = "scaled"
    epochs: int = 10
    batch_size: int = 1024
    learning_rate: float = 0.01
    seed: int = 0
    leave_one_out: bool = False
    name: str | None = None

    def check(self) -> None:
        """Refuse what cannot run."""
        if not self.runs:
            raise UserError("no runs to fit to; give the folders of complete runs of launch/irp.py")
        if self.backbone not in BACKBONES:
            raise unknown("backbone", self.backbone, BACKBONES)
        if self.epochs < 1:
            raise UserError(f"--epochs must be at least 1, got {self.epochs}")
        if self.batch_size < 2:
            raise UserError(f"--batch-size must be at least 2, got {self.batch_size}")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"--learning-rate must be a positive number, got {self.learning_rate}")
        if len({run.resolve() for run in self.runs}) < len(self.runs):
            raise UserError("a run is named twice in --runs")
        if self.name is not None and self.name != Path(self.name).name:
            raise UserError(f"--name is the name of one folder, got {self.name!r}")
        if self.leave_one_out and len(self.runs) < 2:
            raise UserError("--leave-one-out needs at least two runs")
        Features(self.features, self.inputs)
        check_seed(self.seed)

    @property
    def folder(self) -> Path:
        first = self.runs[0].resolve()
        labels = first.parent.name if first.name == "triples.zarr" else first.name
        more = f"-and-{len(self.runs) - 1}-more" if len(self.runs) > 1 else ""
        return (
            self.output
            / "autos"
            / (self.name or f"{labels}{more}_{self.backbone}_{self.inputs}_{self.features}_s{self.seed}")
        )

    def fit_config(self) -> FitConfig:
        """What `fit` takes."""
        return FitConfig(
            self.backbone,
            Features(self.features, self.inputs),
            self.epochs,
            self.batch_size,
            self.learning_rate,
            self.seed,
        )

    def config(self) -> dict[str, Any]:
        return {
            "kind": "autos",
            "stores": [TripleStore.open(run).fingerprint for run in self.runs],
            "leave_one_out": self.leave_one_out,
            **asdict(self.fit_config()),
        }

    def is_complete(self) -> bool:
        return _is_json(self.folder / CARD) and (self.folder / WEIGHTS).is_file()

    def run(self, accelerator: Accelerator) -> None:
        stores = [TripleStore.open(run) for run in self.runs]
        config, start = self.fit_config(), time.perf_counter()
        steps = sum(len(store) for store in stores) * 9 // 10 // config.batch_size * config.epochs
        with _bar(steps, "fit", accelerator) as bar:
            checkpoint = Checkpoint(self.folder / "checkpoint.pt", "fit", write=accelerator.is_main_process)
            autos = fit(stores, config, accelerator, resume=checkpoint, progress=bar.update)
        seconds = time.perf_counter() - start
        metrics = [{"run": str(run), **validate(autos, store, self.seed)} for run, store in self._pairs(stores)]
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
        return validate(fit(others, self.fit_config(), accelerator), left_out, part="all")


@dataclass(frozen=True)
class PruneRun(Job):
    """One network pruned at initialization by one criterion to one sparsity, and trained."""

    output: Path
    setting: Setting = field(default_factory=Setting)
    criterion: str = "snip"
    sparsity: float = 0.95
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot run."""
        self.setting.check()
        check_sparsity(self.sparsity)
        check_seed(self.seed)
        if not self.learned:
            return
        if not is_path(self.criterion):
            raise unknown("criterion", self.criterion, [*CRITERIA, "or the folder of a saved AutoS"])
        AutoS.load(self.criterion)

    @property
    def learned(self) -> bool:
        """Whether the criterion is a saved AutoS."""
        return self.criterion not in CRITERIA

    @property
    def label(self) -> str:
        """The criterion's name in folders and tables."""
        return f"autos-{Path(self.criterion).resolve().name}" if self.learned else self.criterion

    @property
    def folder(self) -> Path:
        name = f"{self.setting.name}_{self.label}_{100 * self.sparsity:g}_s{self.seed}"
        return self.output / "prune" / name

    def config(self) -> dict[str, Any]:
        return {
            "kind": "prune",
            "criterion": self.label,
            "autos": AutoS.fingerprint(self.criterion) if self.learned else None,
            "sparsity": self.sparsity,
            "seed": self.seed,
            **self.setting.config(),
        }

    def is_complete(self) -> bool:
        return _is_json(self.folder / RESULT) and (self.folder / MASK).is_file()

    def run(self, accelerator: Accelerator) -> None:
        model, data = self.setting.make(self.seed, accelerator)
        recipe = self.setting.make_recipe()
        start = time.perf_counter()
        mask = self._mask(model, data, accelerator)
        masked = time.perf_counter()
        with _bar(len(data.training(recipe.batch_size)) * recipe.epochs, self.label, accelerator) as bar:
            checkpoint = Checkpoint(self.folder / "checkpoint.pt", "train", write=accelerator.is_main_process)
            history = train(
                model, mask, data, recipe, accelerator, seed=self.seed, resume=checkpoint, progress=bar.update
            )
        densities = mask.layer_densities()
        result = {
            **self.config(),
            "criterion_kind": "autos" if self.learned else self.criterion,
            "labels_from": self._labels_from(),
            "same_initialization": self._same_initialization(),
            "kept": mask.count,
            "parameters": mask.layout.size,
            "density": mask.density,
            "layer_densities": densities,
            "empty_layers": [name for name, density in densities.items() if density == 0.0],
            **summarize(history),
            "history": history,
            "seconds": {"mask": masked - start, "train": time.perf_counter() - masked},
            "versions": record.versions(),
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
        chosen = path.is_file()
        accelerator.wait_for_everyone()
        if not chosen:
            full = Mask.full(Layout.of(model), accelerator.device)
            criterion = find_criterion(self.criterion, self.seed)
            scores = criterion(model, full, data.scoring(SCORING_BATCH, self.setting.grad_batches))
            mask = keep_top(scores, keep_count(1.0 - self.sparsity, full.layout.size), full)
            if accelerator.is_main_process:
                mask.save(path)
            accelerator.wait_for_everyone()
        return Mask.load(path).to(accelerator.device)

    def _labels_from(self) -> list[dict[str, Any]]:
        """The runs whose labels the criterion was fitted to; none for one that is not learned."""
        if not self.learned:
            return []
        runs = read_json(Path(self.criterion) / CARD)["card"]["runs"]
        return [
            {key: run.get(key) for key in ("network", "dataset", "criterion", "iterations", "seed")} for run in runs
        ]

    def _same_initialization(self) -> bool:
        """Whether labels came from the very initial weights that are pruned here."""
        here = {"network": self.setting.network, "seed": self.seed}
        return any({key: run[key] for key in here} == here for run in self._labels_from())


def _is_json(path: Path) -> bool:
    """Whether a file holds JSON values; one that does not is as good as not there."""
    try:
        return path.is_file() and bool(read_json(path))
    except UserError:
        return False


def check_seed(seed: int) -> None:
    """Refuse a seed that no generator takes."""
    if not 0 <= seed < 1 << 32:
        raise UserError(f"--seeds must lie in 0..{(1 << 32) - 1}, got {seed}")


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


@contextmanager
def _bar(steps: int, name: str, accelerator: Accelerator) -> Iterator[tqdm]:
    """A bar where a person is looking."""
    quiet = None if accelerator.is_main_process else True
    with tqdm(total=steps, desc=name, unit="step", disable=quiet, leave=False) as bar:
        yield bar
