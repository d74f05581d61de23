"""The criterion that comes with the package: what it is fitted to, and how it fares beside others.

It learns from iterative pruning by magnitude, whose masks train best, in rounds, from weight, gradient and flow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator

from autosparse.autos import AutoS, LookupTable
from autosparse.autos.autos import CARD
from autosparse.cluster import Job
from autosparse.config import PRETRAINED
from autosparse.files import read_json, write_json
from autosparse.jobs import FitRun, IRPRun
from autosparse.jobs.setting import Setting
from autosparse.page import Document
from autosparse.pruning import Layout, Mask, keep_top
from autosparse.pruning.schedule import keep_count
from autosparse.store import TripleStore
from autosparse.study import learned
from autosparse.study.parts import Accuracies, Method, Part
from autosparse.study.scale import DIGITS, GPT, LENET, RESNET, Scale
from autosparse.tasks import Images

_STRONG = ("random-erk", "magnitude", "iterative-snip", "synflow", "dataflow")
_ALL = ("random", "snip", "force", "grasp", "npb", *_STRONG)
_RESNET18, _VGG16 = (
    Setting(task=Images(network=name, source="cifar10", recipe_name="strong")) for name in ("resnet18", "vgg16")
)
_WIDER = replace(LENET, task=Images(network="lenet-500-300", source="fashion-mnist"))
_MNIST, _CIFAR = (replace(LENET, task=Images(source=name)) for name in ("mnist", "cifar10"))
_FOUR, _TWO = (0.95, 0.98, 0.99, 0.995), (0.98, 0.99)
_MAP = "The score over the first two inputs, in root mean squares of a network; for three values of a third."


@dataclass(frozen=True)
class Pruned:
    """What is pruned, the seeds that it gives labels from, the criteria beside, and the sparsities."""

    setting: Setting
    labels: tuple[int, ...]
    criteria: tuple[str, ...]
    sparsities: tuple[float, ...] = _FOUR


# the paper's AutoS learns from the first
_NETWORKS: Mapping[str, Sequence[Pruned]] = {
    "full": (Pruned(_RESNET18, (0, 1), _ALL), Pruned(_VGG16, (0,), _ALL)),
    "small": (
        Pruned(LENET, (0, 1), _ALL),
        Pruned(_MNIST, (0, 1), _ALL),
        Pruned(_WIDER, (), _STRONG),
        Pruned(_CIFAR, (0,), _STRONG),
        Pruned(RESNET, (), ("random-erk", "synflow", "dataflow"), _TWO),
        Pruned(GPT, (), ("random", "random-erk", "dataflow"), _TWO),
    ),
    "smoke": (Pruned(DIGITS, (0,), ("dataflow",), _TWO),),
}


def pretrained(scale: Scale) -> list[Part]:
    """The criterion that comes with the package, made and measured: `python launch/paper.py pretrained --scale small`.

    Its runs lie in OUTPUT/pretrained, since their gradients look at fewer images than the paper's. The files to
    put into autosparse/autos/pretrained are beside the report.
    """
    networks = _NETWORKS[scale.name]
    labelled = [(each.setting.name, seed) for each in networks for seed in each.labels]
    scale = replace(
        scale,
        settings={each.setting.name: each.setting for each in networks},
        backbones={"resnet18": "mlp"},
        output=scale.output / "pretrained",
    )
    labels = tuple(scale.irp(name, "magnitude", seed=seed) for name, seed in labelled)
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
    parts: list[Part] = [Pretrained(fit, labels)]
    for each in networks:
        pair = each.setting.name
        methods = (
            *(Method(name, name) for name in each.criteria),
            Method("AutoS, the paper's", scale.fit_to(snip, name="paper"), snip),
            Method("AutoS, pretrained", fit, labels),
            Method("iterative, magnitude", None, (scale.irp(pair, "magnitude"),)),
            *([Method("iterative, SNIP", None, snip)] if pair == first else []),
        )
        parts.append(
            Accuracies(
                title=f"Pruned at initialization: {pair.replace('_', ' on ')}",
                stem=f"pretrained_{pair}",
                scale=scale,
                pair=pair,
                methods=methods,
                sparsities=each.sparsities[-scale.sparsities - 1 :],
                checked=("AutoS, pretrained",),
            )
        )
    return parts


@dataclass(frozen=True)
class Pretrained:
    """A built-in lookup table, and how well it agrees with its network."""

    fit: FitRun
    labels: tuple[IRPRun, ...]
    name: str = PRETRAINED
    """Of `config.SHIPPED`."""

    def jobs(self) -> list[Job]:
        return [*self.labels, self.fit]

    def write(self, document: Document) -> None:
        autos, table = AutoS.load(self.fit.folder), LookupTable.load(self.fit.folder)
        table.save(document.folder / self.name)
        saved = read_json(self.fit.folder / CARD)
        for of in saved["card"]["held_out"]:
            of["run"] = Path(of["run"]).name  # where it lay is nobody's concern
        write_json(document.folder / self.name / CARD, saved)
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
        nodes, size = " x ".join(map(str, table.values.shape)), table.values.nbytes // 1000
        off = "{mean:.1e} in the mean, {p999:.1e} at 99.9%, {max:.1e} at most".format(**table.error)
        document.text(
            f"The lookup table has {nodes} nodes ({size} kB) and is off its network by {off}; in `{self.name}/`."
        )
        document.table(self._agreement(autos, table))
        document.chart(learned.learned_map(autos, table), f"{self.name}_map", _MAP)

    def _agreement(self, autos: AutoS, table: LookupTable) -> pd.DataFrame:
        """Return the percentage of the network's one-shot mask that the lookup table keeps.

        For initial weights that neither has seen; where a probe would have to be made, for those of the first run.
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
                columns = autos.features.measure(model, full, batches, autos.batch_norm)
        own, tabulated = autos.score(*columns), table.score(*columns)
        row = {}
        for sparsity in (0.5, 0.9, *_FOUR):
            k = keep_count(1 - sparsity, full.layout.size)
            same = keep_top(own, k, full).kept & keep_top(tabulated, k, full).kept
            row[f"{100 * sparsity:g}%"] = f"{100 * int(same.sum()) / k:.2f}"
        return pd.DataFrame({"kept by network and lookup table alike, %": row}).T.rename_axis(
            f"{setting.name}, seed {seed}"
        )
