"""The built-in criteria: the runs that they learn from, their fits, how well they fit, and their files.

`pretrained` prunes at initialization; `lookahead` sees the first steps of training. The board compares both with other
criteria.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator

from autosparse.autos import AutoS, LookupTable
from autosparse.autos.autos import CARD
from autosparse.cluster import Job
from autosparse.config import PRETRAINED, PRETRAINED_AHEAD
from autosparse.criteria import Scoring
from autosparse.files import read_json, write_json
from autosparse.jobs import FitRun, IRPRun
from autosparse.jobs.base import TrainingOptions
from autosparse.page import Document
from autosparse.pruning import Layout, Mask, keep_top
from autosparse.pruning.schedule import keep_count
from autosparse.store import TripleStore
from autosparse.study import report
from autosparse.study.parts import Part
from autosparse.study.scale import DIGITS, GPT, LENET, RESNET, Scale
from autosparse.tasks import Images, Text

_MNIST, _CIFAR = (replace(LENET, task=Images(source=name)) for name in ("mnist", "cifar10"))
_RESNET18, _VGG16 = (
    TrainingOptions(task=Images(network=name, source="cifar10", recipe_name="strong")) for name in ("resnet18", "vgg16")
)
_TINY = TrainingOptions(task=Text(layers=1, heads=1, width=16, context=32), epochs=1, batch_size=512, grad_batches=1)
# Seeds of the runs of IRP on each network.
_SEEDS: Mapping[str, Mapping[TrainingOptions, tuple[int, ...]]] = {
    "full": {_RESNET18: (0, 1), _VGG16: (0,)},
    "small": {LENET: (0, 1), _MNIST: (0, 1), _CIFAR: (0,)},
    "smoke": {DIGITS: (0,)},
}
# Steps K of the probe on each network, a fifth of the steps of a training run.
_STEPS: Mapping[str, Mapping[TrainingOptions, int]] = {
    "full": {replace(_RESNET18, grad_batches=20): 11_264},
    "small": {LENET: 253, _MNIST: 253, RESNET: 112, GPT: 163},
    "smoke": {DIGITS: 2, _TINY: 2},
}


def pretrained(scale: Scale) -> list[Part]:
    """The built-in criterion at initialization: `autosparse paper pretrained --scale small`.

    It learns from iterative pruning by magnitude, whose masks train best, in rounds, from weight, gradient and flow.
    Its runs are in OUTPUT/pretrained, because their gradients look at fewer images than the paper's. The folder of the
    report holds the files for autosparse/autos/pretrained.
    """
    seeds = _SEEDS[scale.name]
    scale = replace(
        scale,
        settings={setting.name: setting for setting in seeds},
        backbones={"resnet18": "mlp"},
        output=scale.output / PRETRAINED,
    )
    runs = tuple(scale.irp(setting.name, "magnitude", seed=seed) for setting in seeds for seed in seeds[setting])
    fit = scale.fit_to(
        runs,
        name=PRETRAINED,
        features=("theta", "grad", "flow"),
        epochs=10,
        rounds=2 if scale.name == "smoke" else 30,
        resolution=min(280, scale.fit.resolution),
        anneal=True,
    )
    return [PretrainedCriterion(fit, runs)]


def lookahead(scale: Scale) -> list[Part]:
    """The built-in criterion that looks ahead: `autosparse paper lookahead --scale small`.

    Runs of IRP by magnitude, seeds 0 and 1, of LeNet-300-100, ResNet-8 and a small GPT watch the first fifth of each
    training run. AutoS is fitted to (theta0, theta_K) of all of them, for five rounds, which cost one training run.
    Its runs are in OUTPUT/lookahead; the folder of the report has the files for autosparse/autos/pretrained/lookahead.
    """
    scale, steps = lookahead_scale(scale)
    seeds = (0,) if scale.name == "smoke" else (0, 1)
    runs = tuple(probed_irp(scale, name, k, seed) for name, k in steps.items() for seed in seeds)
    options = lookahead_fit_options(scale.name)
    # The nodes of the table are few enough for the package.
    fit = scale.fit_to(runs, name=PRETRAINED_AHEAD, resolution=min(320, scale.fit.resolution), **options)
    return [PretrainedCriterion(fit, runs)]


def lookahead_scale(scale: Scale) -> tuple[Scale, dict[str, int]]:
    """Return the scale of runs that look ahead, with a folder inside the given one, and the steps of their probes."""
    steps = _STEPS[scale.name]
    inner = replace(
        scale,
        settings={setting.name: setting for setting in steps},
        iterations={20: {"full": 20, "small": 8, "smoke": 2}[scale.name]},
        backbones={"resnet18": "mlp"},
        output=scale.output / PRETRAINED_AHEAD,
    )
    return inner, {setting.name: k for setting, k in steps.items()}


def probed_irp(scale: Scale, network: str, steps: int, seed: int) -> IRPRun:
    """Return a run of IRP by magnitude that watches the first steps of each training run."""
    columns = ("probe-gradient", "probe-theta")
    return scale.irp(network, "magnitude", seed=seed, probe_steps=steps, probe_columns=columns)


def lookahead_fit_options(scale: str) -> dict[str, Any]:
    """Return the options of fits to runs that watch their first steps, to the weights before and after."""
    rounds = 2 if scale == "smoke" else 5
    return {"features": ("theta", "probe-theta"), "epochs": 10, "rounds": rounds, "anneal": True}


@dataclass(frozen=True)
class PretrainedCriterion:
    """A built-in lookup table, and how closely it agrees with its network."""

    fit: FitRun
    runs: tuple[IRPRun, ...]
    """Runs that it learns from."""

    def jobs(self) -> list[Job]:
        return [*self.runs, self.fit]

    def write(self, document: Document) -> None:
        name = self.fit.folder.name
        autos, table = AutoS.load(self.fit.folder), LookupTable.load(self.fit.folder)
        table.save(document.folder / name)
        saved = read_json(self.fit.folder / CARD)
        for metrics in saved["card"]["held_out"]:
            metrics["run"] = Path(metrics["run"]).name  # the package names no folders of its makers
        write_json(document.folder / name / CARD, saved)
        report.add_fit(document, autos, table, f"{name}_map")
        nodes, size = " x ".join(map(str, table.values.shape)), table.values.nbytes // 1000
        error = "{mean:.1e} in the mean, {p999:.1e} at 99.9%, {max:.1e} at most".format(**table.error)
        document.text(
            f"The lookup table has {nodes} nodes ({size} kB) and differs from its network by {error}; "
            f"its files are in `{name}/`."
        )
        document.table(self._agreement(autos, table))

    def _agreement(self, autos: AutoS, table: LookupTable) -> pd.DataFrame:
        """Return how much of the network's one-shot mask the lookup table keeps.

        The initial weights are new to both; if features need a probe, they are those of the first run.
        """
        setting, seed = self.runs[0].setting, max(run.config.seed for run in self.runs) + 1
        if autos.features.probed:
            seed, store = self.runs[0].config.seed, TripleStore.open(self.runs[0].folder)
            full = Mask.full(store.layout)
            read = (store.theta() if name == "theta" else store.probe(name, 0) for name in autos.features.columns)
            columns = tuple(map(torch.from_numpy, read))
        else:
            model, data = setting.make(seed, accelerator := Accelerator())
            full = Mask.full(Layout.of(model), accelerator.device)
            batches = data.scoring(limit=setting.grad_batches)
            with torch.no_grad():
                scoring = Scoring(batches, batches.loss)
                columns = autos.features.measure(model, full, scoring, autos.batch_norm)
        by_network, by_table = autos.score(*columns), table.score(*columns)
        row = {}
        for sparsity in (0.5, 0.9, 0.95, 0.98, 0.99, 0.995):
            k = keep_count(1 - sparsity, full.layout.size)
            same = keep_top(by_network, k, full).kept & keep_top(by_table, k, full).kept
            row[f"{100 * sparsity:g}%"] = f"{100 * int(same.sum()) / k:.2f}"
        rows = pd.DataFrame({"kept by network and lookup table alike, %": row})
        return rows.T.rename_axis(f"{setting.name}, seed {seed}")
