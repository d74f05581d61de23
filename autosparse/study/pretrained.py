"""The criteria that come with the package: their labels, their fits, and comparisons with other criteria.

`pretrained` prunes at initialization. `lookahead` sees the first steps of training; its tables have the cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from accelerate import Accelerator

from autosparse.autos import AutoS, LookupTable
from autosparse.autos.autos import CARD
from autosparse.cluster import Job
from autosparse.config import PRETRAINED, PRETRAINED_AHEAD, Sanity
from autosparse.criteria import Scoring
from autosparse.files import read_json, write_json
from autosparse.jobs import FitRun, IRPRun
from autosparse.jobs.base import TrainingOptions
from autosparse.page import Document
from autosparse.pruning import Layout, Mask, keep_top
from autosparse.pruning.schedule import keep_count
from autosparse.store import TripleStore
from autosparse.study import learned
from autosparse.study.charts import AT_START
from autosparse.study.parts import Comparison, CostFigure, Method, Part
from autosparse.study.report import fit_table
from autosparse.study.scale import DIGITS, GPT, LENET, RESNET, Scale
from autosparse.tasks import Images, Text

_AHEAD = "AutoS, looking ahead"
_COLUMNS = ("probe-gradient", "probe-theta")
_ALL_CHECKS: tuple[Sanity, ...] = get_args(Sanity)[1:]
_STRONG = ("random-erk", "magnitude", "iterative-snip", "synflow", "dataflow")
_ALL = ("random", "snip", "force", "grasp", "npb", *_STRONG)
_AT_COST = ("random-erk", "magnitude", "snip", "synflow")
_RESNET18, _VGG16 = (
    TrainingOptions(task=Images(network=name, source="cifar10", recipe_name="strong")) for name in ("resnet18", "vgg16")
)
_WIDER = replace(LENET, task=Images(network="lenet-500-300", source="fashion-mnist"))
_MNIST, _CIFAR = (replace(LENET, task=Images(source=name)) for name in ("mnist", "cifar10"))
_BIG = replace(_RESNET18, grad_batches=20)
_TINY = TrainingOptions(task=Text(layers=1, heads=1, width=16, context=32), epochs=1, batch_size=512, grad_batches=1)
_FOUR, _TWO = (0.95, 0.98, 0.99, 0.995), (0.98, 0.99)
_MAP = "The score over the first two inputs, in root mean squares of a network; for three values of a third."


@dataclass(frozen=True)
class NetworkKind:
    """A network and its data, pruned by several criteria."""

    setting: TrainingOptions
    labels: tuple[int, ...]
    """Seeds of the runs of IRP that give labels; empty for a network that is only pruned."""
    criteria: tuple[str, ...]
    """Criteria at initialization to compare with."""
    sparsities: tuple[float, ...]
    steps: int = 0
    """Steps K of the probe, a fifth of the steps of a training run."""
    further: bool = False
    """Whether to look ahead at other costs as well."""
    checks: tuple[Sanity, ...] = ("shuffled",)
    """Sanity checks of the AutoS that looks ahead."""

    @property
    def budgets(self) -> dict[str, dict[str, Any]]:
        """Options of a fifth and of two training runs, where one is the default."""
        if not self.further:
            return {}
        return {"shorter": {"steps": max(1, self.steps // 5)}, "longer": {"rounds": 10, "steps": self.steps}}


# The paper's AutoS learns from the first network.
_PRETRAINED: Mapping[str, Sequence[NetworkKind]] = {
    "full": (NetworkKind(_RESNET18, (0, 1), _ALL, _FOUR), NetworkKind(_VGG16, (0,), _ALL, _FOUR)),
    "small": (
        NetworkKind(LENET, (0, 1), _ALL, _FOUR),
        NetworkKind(_MNIST, (0, 1), _ALL, _FOUR),
        NetworkKind(_WIDER, (), _STRONG, _FOUR),
        NetworkKind(_CIFAR, (0,), _STRONG, _FOUR),
        NetworkKind(RESNET, (), ("random-erk", "synflow", "dataflow"), _TWO),
        NetworkKind(GPT, (), ("random", "random-erk", "dataflow"), _TWO),
    ),
    "smoke": (NetworkKind(DIGITS, (0,), ("dataflow",), _TWO),),
}
_LOOKAHEAD: Mapping[str, Sequence[NetworkKind]] = {
    "full": (NetworkKind(_BIG, (0, 1), _AT_COST, (0.95, 0.98, 0.99), steps=11_264),),
    "small": (
        NetworkKind(LENET, (0, 1), _AT_COST, (0.9, 0.95, 0.98, 0.99), steps=253, further=True, checks=_ALL_CHECKS),
        NetworkKind(_MNIST, (0, 1), _AT_COST, _TWO, steps=253),
        NetworkKind(RESNET, (0, 1), _AT_COST, _TWO, steps=112),
        NetworkKind(GPT, (0, 1), ("random", "magnitude", "snip"), (0.95, 0.98, 0.99), steps=163),
    ),
    "smoke": (
        NetworkKind(DIGITS, (0,), ("synflow",), (0.9, 0.95), steps=2, further=True),
        NetworkKind(_TINY, (0,), ("random",), (0.9, 0.95), steps=2),
    ),
}


def pretrained(scale: Scale) -> list[Part]:
    """The criterion that comes with the package, made and measured: `python launch/paper.py pretrained --scale small`.

    It learns from iterative pruning by magnitude, whose masks train best, in rounds, from weight, gradient and flow.
    Its runs are in OUTPUT/pretrained, because their gradients look at fewer images than the paper's. The folder of the
    report holds the files for autosparse/autos/pretrained.
    """
    kinds = _PRETRAINED[scale.name]
    scale = replace(
        scale,
        settings={kind.setting.name: kind.setting for kind in kinds},
        backbones={"resnet18": "mlp"},
        output=scale.output / "pretrained",
    )
    labels = tuple(scale.irp(kind.setting.name, "magnitude", seed=seed) for kind in kinds for seed in kind.labels)
    fit = scale.fit_to(
        labels,
        name=PRETRAINED,
        features=("theta", "grad", "flow"),
        epochs=10,
        rounds=2 if scale.name == "smoke" else 30,
        resolution=min(280, scale.fit.resolution),
        anneal=True,
    )
    first, *_ = scale.settings
    snip = (scale.irp(first, "snip"),)
    parts: list[Part] = [PretrainedCriterion(fit, labels, PRETRAINED)]
    for kind in kinds:
        pair = kind.setting.name
        methods = (
            *(Method(name, name) for name in kind.criteria),
            Method("AutoS, the paper's", scale.fit_to(snip, name="paper"), snip),
            Method("AutoS, pretrained", fit, labels),
            Method("iterative, magnitude", None, (scale.irp(pair, "magnitude"),)),
            *([Method("iterative, SNIP", None, snip)] if pair == first else []),
        )
        title, sparsities = (
            f"Pruned at initialization: {pair.replace('_', ' on ')}",
            kind.sparsities[-scale.sparsities - 1 :],
        )
        checked = ("AutoS, pretrained",)
        parts.append(Comparison(title, f"pretrained_{pair}", scale, pair, methods, sparsities, checked=checked))
    return parts


def lookahead(scale: Scale) -> list[Part]:
    """AutoS looks ahead, compared at equal cost: `python launch/paper.py lookahead --scale small`.

    Three kinds of network: LeNet-300-100, ResNet-8 and a small GPT. Runs of IRP by magnitude, seeds 0 and 1, watch the
    first fifth of each training run. AutoS is fitted to (theta0, theta_K) of all kinds of network together, of each
    alone, and to the paper's two inputs with the gradient averaged along the probe. Five rounds of a fifth of a
    training run cost one training run. Seeds 100 to 102 are pruned.
    The folder of the report holds the files for autosparse/autos/pretrained/lookahead.
    To expect: better than all criteria at initialization; worse than gradual magnitude pruning over two trainings.
    """
    scale, kinds = lookahead_kinds(scale)
    runs = {name: tuple(probed_irp(scale, kind, seed) for seed in kind.labels) for name, kind in kinds.items()}
    everything = tuple(run for by_kind in runs.values() for run in by_kind)
    options = lookahead_fit_options(scale.name)
    ahead = scale.fit_to(everything, name=PRETRAINED_AHEAD, **options)
    gradients = scale.fit_to(everything, name="gradients", **{**options, "features": ("theta", "probe-gradient")})
    # The same network with a table small enough for the package.
    shipped = scale.fit_to(everything, name="shipped", resolution=min(320, scale.fit.resolution), **options)
    tables: list[Comparison] = []
    for name, kind in kinds.items():
        others = tuple(run for other, by_kind in runs.items() if other != name for run in by_kind)
        itself = scale.fit_to(runs[name], name=f"{name}-itself", **options)
        methods = [
            *(Method(criterion, criterion, family=AT_START) for criterion in kind.criteria),
            Method("short IRP", "short-irp", family="short IRP"),
            *(Method(f"short IRP, {b}", "short-irp", how=how, family="short IRP") for b, how in kind.budgets.items()),
            Method("SNIP of mean gradients", "snip-probe"),
            Method(_AHEAD, ahead, everything, family=_AHEAD),
            Method("the same, labels from itself", itself, runs[name]),
        ]
        if others:
            fit = scale.fit_to(others, name=f"{name}-others", **options)
            methods.append(Method("the same, labels from the others", fit, others))
        methods += [
            Method("AutoS of mean gradients", gradients, everything),
            *(Method(f"{_AHEAD}, {b}", ahead, everything, how=how, family=_AHEAD) for b, how in kind.budgets.items()),
            Method("GMP", "gmp", family="GMP"),
            Method("GMP over two trainings", "gmp", how={"trainings": 2}, family="GMP"),
            Method("RigL", "rigl", family="RigL"),
            Method("RigL over two trainings", "rigl", how={"trainings": 2}, family="RigL"),
            # Iterative pruning of the seeds that are pruned is the ceiling.
            Method("IRP", None, tuple(scale.irp(name, "magnitude", seed=seed) for seed in scale.seeds), family="IRP"),
        ]
        title, rows, checked = f"Looking ahead: {name.replace('_', ' on ')}", tuple(methods), (_AHEAD,)
        table = Comparison(title, f"lookahead_{name}", scale, name, rows, kind.sparsities, True, checked, kind.checks)
        tables.append(table)
    sparsity = sorted(set.intersection(*({*table.sparsities} for table in tables)))[-2:][0]
    title = f"Accuracy against cost at {100 * sparsity:g}%"
    figure = CostFigure(title, "lookahead_costs", tuple(tables), sparsity)
    return [figure, *tables, PretrainedCriterion(shipped, everything, PRETRAINED_AHEAD)]


def lookahead_kinds(scale: Scale) -> tuple[Scale, dict[str, NetworkKind]]:
    """Return the scale of runs that look ahead, with a folder inside the given one, and its networks by name."""
    kinds = {kind.setting.name: kind for kind in _LOOKAHEAD[scale.name]}
    inner = replace(
        scale,
        settings={name: kind.setting for name, kind in kinds.items()},
        iterations={20: {"full": 20, "small": 8, "smoke": 2}[scale.name]},
        backbones={"resnet18": "mlp"},
        output=scale.output / PRETRAINED_AHEAD,
    )
    return inner, kinds


def probed_irp(scale: Scale, kind: NetworkKind, seed: int) -> IRPRun:
    """Return a run of IRP by magnitude that watches the first steps of each training run."""
    return scale.irp(kind.setting.name, "magnitude", seed=seed, probe_steps=kind.steps, probe_columns=_COLUMNS)


def lookahead_fit_options(scale: str) -> dict[str, Any]:
    """Return the options of fits to runs that watch their first steps, to the weights before and after."""
    rounds = 2 if scale == "smoke" else 5
    return {"features": ("theta", "probe-theta"), "epochs": 10, "rounds": rounds, "anneal": True}


@dataclass(frozen=True)
class PretrainedCriterion:
    """A lookup table that comes with the package, and how closely it agrees with its network."""

    fit: FitRun
    labels: tuple[IRPRun, ...]
    name: str
    """Folder that the files are written to."""

    def jobs(self) -> list[Job]:
        return [*self.labels, self.fit]

    def write(self, document: Document) -> None:
        autos, table = AutoS.load(self.fit.folder), LookupTable.load(self.fit.folder)
        table.save(document.folder / self.name)
        saved = read_json(self.fit.folder / CARD)
        for metrics in saved["card"]["held_out"]:
            metrics["run"] = Path(metrics["run"]).name  # the package names no folders of its makers
        write_json(document.folder / self.name / CARD, saved)
        document.heading("The fit", 3)
        document.table(fit_table(autos.card))
        nodes, size = " x ".join(map(str, table.values.shape)), table.values.nbytes // 1000
        error = "{mean:.1e} in the mean, {p999:.1e} at 99.9%, {max:.1e} at most".format(**table.error)
        document.text(
            f"The lookup table has {nodes} nodes ({size} kB) and differs from its network by {error}; "
            f"its files are in `{self.name}/`."
        )
        document.table(self._agreement(autos, table))
        document.chart(learned.score_map(autos, table), f"{self.name}_map", _MAP)

    def _agreement(self, autos: AutoS, table: LookupTable) -> pd.DataFrame:
        """Return how much of the network's one-shot mask the lookup table keeps.

        The initial weights are new to both; if features need a probe, they are those of the first run.
        """
        setting, seed = self.labels[0].setting, max(run.config.seed for run in self.labels) + 1
        if autos.features.probed:
            seed, store = self.labels[0].config.seed, TripleStore.open(self.labels[0].folder)
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
        for sparsity in (0.5, 0.9, *_FOUR):
            k = keep_count(1 - sparsity, full.layout.size)
            same = keep_top(by_network, k, full).kept & keep_top(by_table, k, full).kept
            row[f"{100 * sparsity:g}%"] = f"{100 * int(same.sum()) / k:.2f}"
        rows = pd.DataFrame({"kept by network and lookup table alike, %": row})
        return rows.T.rename_axis(f"{setting.name}, seed {seed}")
