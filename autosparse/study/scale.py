"""Scales of experiments: the paper's networks, narrow networks of their kinds, LeNets, and a trial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from autosparse.config import Backbone, FitConfig, IRPConfig, IRPCriterion, PruneConfig, Sanity
from autosparse.jobs import FitRun, IRPRun, PruneRun
from autosparse.jobs.base import TrainingOptions
from autosparse.tasks import Images, Text

PAPERS = ("lenet/mnist", "resnet18/cifar10", "vgg16/cifar10", "vgg19/cifar100", "resnet18/tiny-imagenet")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Replacements of the paper's networks, data and numbers, and the folder of all runs."""

    name: str
    settings: Mapping[str, TrainingOptions]
    """Network and data by their names in the paper, as in `PAPERS`; equal values share their runs."""
    iterations: Mapping[int, int]
    """Iterations of IRP by the paper's number of iterations."""
    backbones: Mapping[str, Backbone]
    """Backbones of AutoS by their names in the paper."""
    fit: FitConfig
    """Options of every fit of AutoS, except for those that an experiment varies."""
    sparsities: int
    """Number of a table's sparsities that are run, from the highest."""
    seeds: tuple[int, ...]
    """Seeds that are pruned and trained."""
    repetitions: int
    """Number of runs of IRP of each kind whose survival is compared."""
    extras: tuple[str, ...]
    """Criteria in Figure 3 besides the paper's."""
    output: Path = Path("runs")
    """Folder of all runs."""

    def irp(self, pair: str, criterion: IRPCriterion = "snip", iterations: int = 20, **how: Any) -> IRPRun:
        """Return a run of IRP; pair and iterations are those of the paper."""
        config = IRPConfig(criterion=criterion, iterations=self.iterations[iterations], **how)
        return IRPRun(output=self.output, setting=self.settings[pair], config=config)

    def fit_to(self, runs: Sequence[IRPRun], backbone: str = "resnet18", name: str | None = None, **how: Any) -> FitRun:
        """Return a fit of AutoS; without a name, its folder names its labels and the options that are not default."""
        config = replace(self.fit, backbone=self.backbones[backbone], **how)
        default = replace(self.fit, backbone=self.backbones["resnet18"])
        changes = [
            f"{option.name.replace('_', '-')}-{'+'.join(value) if isinstance(value, tuple) else value}"
            for option in fields(FitConfig)
            if (value := getattr(config, option.name)) != getattr(default, option.name)
        ]
        name = name or "_".join(["+".join(dict.fromkeys(run.folder.name for run in runs)), *changes])
        return FitRun(output=self.output, runs=tuple(str(run.folder) for run in runs), config=config, name=name)

    def prune(
        self, pair: str, criterion: str | FitRun, sparsity: float, sanity: Sanity = "none", **how: Any
    ) -> list[PruneRun]:
        """Return the runs that prune by a criterion's name or a fit of AutoS, one per seed."""
        name = criterion if isinstance(criterion, str) else str(criterion.folder)
        config = PruneConfig(criterion=name, sparsity=sparsity, sanity=sanity, **how)
        run = PruneRun(output=self.output, setting=self.settings[pair], config=config)
        return [replace(run, config=replace(config, seed=seed)) for seed in self.seeds]

    def shown(self, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        """Return the sparsities of a table that are run."""
        return sparsities[-self.sparsities :]

    def distinct(self, *pairs: str) -> list[str]:
        """Return the paper's networks and data that differ at this scale."""
        seen = dict[TrainingOptions, str]()
        for pair in pairs:
            seen.setdefault(self.settings[pair], pair)
        return list(seen.values())


LENET = TrainingOptions(task=Images(source="fashion-mnist"), epochs=3, grad_batches=20)
RESNET = TrainingOptions(task=Images(network="resnet8", source="cifar10-16"), epochs=4, grad_batches=20)
GPT = TrainingOptions(task=Text(layers=2, heads=2, width=64, context=64), epochs=1, batch_size=18, grad_batches=20)
"""Networks that the pretrained criteria are made from and measured on, at a size for two cores."""
DIGITS = TrainingOptions(task=Images(source="digits"), epochs=1, grad_batches=1)
"""Network and data of a trial."""

_ALL_EXTRAS = ("magnitude", "random-erk", "iterative-snip", "force", "synflow")
_MLP: Mapping[str, Backbone] = {"resnet18": "mlp", "vgg19": "mlp"}


def _papers(pair: str) -> TrainingOptions:
    network, dataset = pair.replace("lenet", "lenet-300-100").split("/")
    return TrainingOptions(task=Images(network=network, source=dataset, recipe_name="paper"))


def _small(pair: str) -> TrainingOptions:
    """Return LeNet-300-100 for all networks; Fashion-MNIST for ResNet-18 on CIFAR-10, MNIST for all other data."""
    return TrainingOptions(task=Images(source="fashion-mnist" if pair == "resnet18/cifar10" else "mnist"), epochs=3)


_NARROW = {
    "lenet/mnist": _small("lenet/mnist"),
    "resnet18/cifar10": TrainingOptions(task=Images(network="resnet8", source="cifar10-16"), epochs=4),
    "vgg16/cifar10": TrainingOptions(task=Images(network="vgg7", source="cifar10-16"), epochs=4),
    "vgg19/cifar100": TrainingOptions(task=Images(network="vgg7", source="fashion-mnist"), epochs=2),
    "resnet18/tiny-imagenet": TrainingOptions(task=Images(network="resnet8", source="fashion-mnist"), epochs=2),
}

FULL = Scale(
    name="full",
    settings={pair: _papers(pair) for pair in PAPERS},
    iterations={20: 20, 40: 40, 100: 100},
    backbones={"resnet18": "resnet18", "vgg19": "vgg19"},
    fit=FitConfig(),
    sparsities=9,
    seeds=(100, 101, 102),
    repetitions=3,
    extras=_ALL_EXTRAS,
)
SMALL = Scale(
    name="small",
    settings={pair: _small(pair) for pair in PAPERS},
    iterations={20: 10, 40: 20, 100: 40},
    backbones=_MLP,
    fit=FitConfig(epochs=4, max_steps=2000),
    sparsities=3,
    seeds=(100, 101, 102),
    repetitions=3,
    extras=("magnitude", "random-erk", "synflow"),
    output=Path("runs", "small"),
)
NARROW = replace(SMALL, name="narrow", settings=_NARROW, output=Path("runs", "narrow"))
"""ResNet-8 and VGG-7 for the paper's ResNet and VGG: minutes on a GPU, hours on two cores."""
SMOKE = Scale(
    name="smoke",
    settings=dict.fromkeys(PAPERS, TrainingOptions(task=Images(source="digits"), epochs=1)),
    iterations={20: 2, 40: 3, 100: 4},
    backbones=_MLP,
    fit=FitConfig(epochs=1, max_steps=4, resolution=16),
    sparsities=1,
    seeds=(100,),
    repetitions=1,
    extras=_ALL_EXTRAS,
    output=Path("runs", "smoke"),
)
DEMO = Scale(
    name="demo",
    settings={"lenet/mnist": TrainingOptions()},
    iterations={20: 20},
    backbones=_MLP,
    fit=FitConfig(epochs=4),
    sparsities=4,
    seeds=(100, 101),
    repetitions=1,
    extras=(),
)
SCALES = {scale.name: scale for scale in (FULL, NARROW, SMALL, SMOKE)}
