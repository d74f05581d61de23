"""How large the paper's experiments are run: as they are there, on two cores within an hour, or as a trial."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from autosparse.autos import FitConfig
from autosparse.jobs import FitRun, IRPRun
from autosparse.jobs.setting import Setting

PAPERS = ("lenet/mnist", "resnet18/cifar10", "vgg16/cifar10", "vgg19/cifar100", "resnet18/tiny-imagenet")


@dataclass(frozen=True)
class Scale:
    """What stands here for what the paper names, and how often it is repeated.

    Attributes:
        name: `full`, `small` or `smoke`.
        settings: by the paper's network/data, as in `PAPERS`; what two of them share is run once.
        iterations: by the paper's number of IRP's iterations.
        backbones: by the paper's network of AutoS.
        fit: of every AutoS, but for what an experiment varies.
        sparsities: how many of a table's sparsities are run, from the highest.
        seeds: that are pruned and trained.
        repetitions: of runs of IRP whose survival is compared.
        extras: criteria beside the paper's in Figure 3.
        output: folder of all runs.
    """

    name: str
    settings: Mapping[str, Setting]
    iterations: Mapping[int, int]
    backbones: Mapping[str, str]
    fit: FitConfig
    sparsities: int
    seeds: tuple[int, ...]
    repetitions: int
    extras: tuple[str, ...]
    output: Path = Path("runs")

    def irp(
        self,
        pair: str,
        criterion: str = "snip",
        iterations: int = 20,
        seed: int = 0,
        order_seed: int | None = None,
    ) -> IRPRun:
        """A run of IRP, by the paper's words for it."""
        setting, rounds = self.settings[pair], self.iterations[iterations]
        return IRPRun(self.output, setting, criterion, rounds, seed=seed, order_seed=order_seed)

    def fit_to(self, runs: Iterable[IRPRun], backbone: str = "resnet18", **how: Any) -> FitRun:
        """A fit of AutoS, in a folder named after its labels and after what is not the scale's default."""
        runs = tuple(runs)
        config = replace(self.fit, backbone=self.backbones[backbone], **how)
        default = replace(self.fit, backbone=self.backbones["resnet18"])
        changes = [
            f"{each.name.replace('_', '-')}-{_word(getattr(config, each.name))}"
            for each in fields(FitConfig)
            if getattr(config, each.name) != getattr(default, each.name)
        ]
        name = "_".join(["+".join(dict.fromkeys(run.folder.name for run in runs)), *changes])
        return FitRun(self.output, tuple(str(run.folder) for run in runs), config, name=name)

    def shown(self, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        """Those of a table's sparsities that are run."""
        return sparsities[-self.sparsities :]

    def distinct(self, *pairs: str) -> list[str]:
        """Those of the paper's networks and data that are different ones here."""
        seen = dict[Setting, str]()
        for pair in pairs:
            seen.setdefault(self.settings[pair], pair)
        return list(seen.values())


def _word(value: Any) -> str:
    """A setting in a folder's name."""
    return f"{value.inputs}-{value.transform}" if hasattr(value, "inputs") else str(value)


_PAIRS = {pair: tuple(pair.replace("lenet", "lenet-300-100").split("/")) for pair in PAPERS}
_LENET_ON_MNIST = Setting(dataset="mnist", epochs=3)
_LENET_ON_FASHION = Setting(dataset="fashion-mnist", epochs=3)
_LENET_ON_DIGITS = Setting(dataset="digits", epochs=1)
_ALL_EXTRAS = ("magnitude", "random-erk", "iterative-snip", "force", "synflow")

FULL = Scale(
    name="full",
    settings={pair: Setting(network, dataset, recipe="paper") for pair, (network, dataset) in _PAIRS.items()},
    iterations={20: 20, 40: 40, 100: 100},
    backbones={"resnet18": "resnet18", "vgg19": "vgg19"},
    fit=FitConfig(),
    sparsities=9,
    seeds=(100, 101, 102),
    repetitions=3,
    extras=_ALL_EXTRAS,
)
# LeNet-300-100 for all networks; Fashion-MNIST for CIFAR-10, MNIST for the other data
SMALL = Scale(
    name="small",
    settings={pair: _LENET_ON_FASHION if pair == "resnet18/cifar10" else _LENET_ON_MNIST for pair in PAPERS},
    iterations={20: 10, 40: 20, 100: 40},
    backbones={"resnet18": "mlp", "vgg19": "mlp"},
    fit=FitConfig(epochs=4, max_steps=2000),
    sparsities=3,
    seeds=(100, 101, 102),
    repetitions=3,
    extras=("magnitude", "random-erk", "synflow"),
)
SMOKE = Scale(
    name="smoke",
    settings=dict.fromkeys(PAPERS, _LENET_ON_DIGITS),
    iterations={20: 2, 40: 3, 100: 4},
    backbones={"resnet18": "mlp", "vgg19": "mlp"},
    fit=FitConfig(epochs=1, max_steps=4, resolution=16),
    sparsities=1,
    seeds=(100,),
    repetitions=1,
    extras=_ALL_EXTRAS,
)
SCALES = {scale.name: scale for scale in (FULL, SMALL, SMOKE)}
