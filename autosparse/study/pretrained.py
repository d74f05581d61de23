"""The criterion that comes with the package: what it is fitted to, and how it fares beside others.

It learns from iterative pruning by magnitude, whose masks train best, in rounds, from weight, gradient and flow.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator

from autosparse.autos import AutoS, Features, FitConfig, Surface
from autosparse.autos.autos import CARD
from autosparse.autos.pretrained import NAME
from autosparse.cluster import Job
from autosparse.files import read_json, write_json
from autosparse.irp import SCORING_BATCH
from autosparse.jobs import FitRun, IRPRun
from autosparse.jobs.setting import Setting
from autosparse.pruning import Layout, Mask, keep_top
from autosparse.pruning.schedule import keep_count
from autosparse.study import figures
from autosparse.study.accuracies import Accuracies
from autosparse.study.document import Document
from autosparse.study.experiment import Method, Part
from autosparse.study.scale import Scale

_SPARSITIES = (0.95, 0.98, 0.99, 0.995)
_STRONG = ("random-erk", "magnitude", "iterative-snip", "synflow", "dataflow")
_ALL = ("random", "snip", "force", "grasp", "npb", *_STRONG)
_FASHION = Setting(dataset="fashion-mnist", epochs=3, grad_batches=20)
_MNIST, _CIFAR = replace(_FASHION, dataset="mnist"), replace(_FASHION, dataset="cifar10")
_DIGITS = Setting(dataset="digits", epochs=1, grad_batches=1)


@dataclass(frozen=True)
class _Scope:
    """What labels come from and what is pruned, at one scale."""

    labels: tuple[tuple[Setting, int], ...]
    """With the seed of each run."""
    papers: Setting
    """What the paper's AutoS learns from."""
    pruned: tuple[tuple[Setting, tuple[str, ...]], ...]
    """With the criteria beside."""
    iterations: int
    fit: FitConfig


_MAP = "The pretrained surface over weight and gradient, in root mean squares of a network, for three flows."
_HOW = FitConfig(features=Features(inputs="both+flow"), rounds=30, resolution=280, anneal=True)
_RESNET, _VGG = (Setting(network, "cifar10", recipe="strong") for network in ("resnet18", "vgg16"))
_SCOPES: Mapping[str, _Scope] = {
    "full": _Scope(
        labels=((_RESNET, 0), (_RESNET, 1), (_VGG, 0)),
        papers=_RESNET,
        pruned=((_RESNET, _ALL), (_VGG, _ALL)),
        iterations=20,
        fit=_HOW,
    ),
    "small": _Scope(
        labels=((_FASHION, 0), (_FASHION, 1), (_MNIST, 0), (_MNIST, 1), (_CIFAR, 0)),
        papers=_FASHION,
        pruned=(
            (_FASHION, _ALL),
            (_MNIST, _ALL),
            (replace(_FASHION, network="lenet-500-300"), _STRONG),
            (_CIFAR, _STRONG),
        ),
        iterations=10,
        fit=replace(_HOW, max_steps=2000),
    ),
    "smoke": _Scope(
        labels=((_DIGITS, 0),),
        papers=_DIGITS,
        pruned=((_DIGITS, ("dataflow",)),),
        iterations=2,
        fit=replace(_HOW, max_steps=4, resolution=16, rounds=2),
    ),
}


def pretrained(scale: Scale) -> list[Part]:
    """The criterion that comes with the package, made and measured: `python launch/paper.py pretrained --scale small`.

    Its runs lie in OUTPUT/pretrained, since their gradients look at fewer images than the paper's. The files to
    put into autosparse/autos/pretrained are beside the report.
    """
    scope, output = _SCOPES[scale.name], scale.output / "pretrained"
    labels = tuple(_irp(output, scope, setting, seed=seed) for setting, seed in scope.labels)
    fit = FitRun(output, tuple(str(run.folder) for run in labels), scope.fit, name=NAME)
    snip = _irp(output, scope, scope.papers, "snip")
    papers = FitRun(output, (str(snip.folder),), replace(scale.fit, backbone=scope.fit.backbone), name="paper")
    parts: list[Part] = [Pretrained(fit, labels)]
    for setting, rules in scope.pruned:
        title = setting.name.replace("_", " on ")
        methods = (
            *(Method(name, name) for name in rules),
            Method("AutoS, the paper's", papers, (snip,)),
            Method("AutoS, pretrained", fit, labels),
            Method("iterative, magnitude", (_irp(output, scope, setting),)),
            *([Method("iterative, SNIP", (snip,))] if setting == scope.papers else []),
        )
        parts.append(
            Accuracies(
                f"Pruned at initialization: {title}",
                f"pretrained_{setting.name}",
                output,
                setting,
                methods,
                _SPARSITIES[-scale.sparsities - 1 :],
                scale.seeds,
                checked=("AutoS, pretrained",),
            )
        )
    return parts


def _irp(output: Path, scope: _Scope, setting: Setting, criterion: str = "magnitude", seed: int = 0) -> IRPRun:
    return IRPRun(output, setting, criterion, scope.iterations, seed=seed)


@dataclass(frozen=True)
class Pretrained:
    """The surface that is pretrained, and how well it stands for its network."""

    fit: FitRun
    labels: tuple[IRPRun, ...]

    def jobs(self) -> list[Job]:
        return [*self.labels, self.fit]

    def write(self, document: Document) -> None:
        autos, surface = AutoS.load(self.fit.folder), Surface.load(self.fit.folder)
        surface.save(document.folder / NAME)
        saved = read_json(self.fit.folder / CARD)
        for of in saved["card"]["held_out"]:
            of["run"] = Path(of["run"]).name  # where it lay is nobody's concern
        write_json(document.folder / NAME / CARD, saved)
        document.heading("The fit", 3)
        rows = [
            {
                "labels from": Path(of["run"]).name,
                "MSE": f"{of['mse']:.4f} of {of['variance']:.4f}",
                "Spearman": f"{of['spearman']:.3f}",
                **{f"overlap at {100 * float(s):g}%": f"{100 * share:.1f}" for s, share in of["overlap"].items()},
            }
            for of in autos.card["held_out"]
        ]
        document.table(pd.DataFrame(rows).set_index("labels from"))
        nodes, size = " x ".join(map(str, surface.table.shape)), surface.table.nbytes // 1000
        off = "{mean:.1e} in the mean, {p999:.1e} at 99.9%, {max:.1e} at most".format(**surface.error)
        document.text(f"Pretrained is a surface of {nodes} nodes ({size} kB), off its network by {off}; in `{NAME}/`.")
        document.table(self._agreement(autos, surface))
        document.figure(figures.learned_map(autos, surface), f"{NAME}_map", _MAP)

    def _agreement(self, autos: AutoS, surface: Surface) -> pd.DataFrame:
        """How much of the network's one-shot mask the surface keeps, for initial weights that neither has seen."""
        setting, seed = self.labels[0].setting, max(run.seed for run in self.labels) + 1
        model, data = setting.make(seed, accelerator := Accelerator())
        full = Mask.full(Layout.of(model), accelerator.device)
        batches = data.scoring(SCORING_BATCH, setting.grad_batches)
        with torch.no_grad():
            columns = autos.features.measure(model, full, batches, autos.batch_norm)
        own, tabulated = autos.score(*columns), surface.score(*columns)
        row = {}
        for sparsity in (0.5, 0.9, *_SPARSITIES):
            k = keep_count(1 - sparsity, full.layout.size)
            same = keep_top(own, k, full).kept & keep_top(tabulated, k, full).kept
            row[f"{100 * sparsity:g}%"] = f"{100 * int(same.sum()) / k:.2f}"
        return pd.DataFrame({"kept by network and surface alike, %": row}).T.rename_axis(f"{setting.name}, seed {seed}")
