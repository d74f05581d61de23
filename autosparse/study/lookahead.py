"""The plan that looks ahead: AutoS fitted to what probes saw, beside its rivals, with the cost on the axis.

Three kinds of network: LeNet-300-100, ResNet-8 and a small GPT. Labels come from seeds 0 and 1 of each, by magnitude;
seeds 100 to 102 are pruned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autosparse.config import PRETRAINED_AHEAD, Sanity
from autosparse.jobs import IRPRun
from autosparse.jobs.base import Setting
from autosparse.study.charts import AT_START
from autosparse.study.costs import AtCost, SideBySide, iterative
from autosparse.study.parts import Method, Part
from autosparse.study.pretrained import Pretrained
from autosparse.study.scale import DIGITS, GPT, LENET, RESNET, Scale
from autosparse.tasks import Images, Text

_AHEAD = "AutoS, looking ahead"
WEIGHTS = ("theta", "probe-theta")
"""What AutoS looks at, the initial weight and that after K steps."""

_COLUMNS = ("probe-gradient", "probe-theta")
_ALL: tuple[Sanity, ...] = ("shuffled", "reinitialized", "inverted")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of network that is pruned, and what its runs of IRP watch."""

    setting: Setting
    """Network, data and training."""
    steps: int
    """K, a fifth of the steps of a training."""
    labels: tuple[int, ...] = (0, 1)
    """The seeds that labels come from; none for what is only pruned."""
    sparsities: tuple[float, ...] = (0.95, 0.98, 0.99)
    """What it is pruned to."""
    one_shot: tuple[str, ...] = ("random-erk", "magnitude", "snip", "synflow")
    """Criteria at initialization."""
    further: bool = False
    """Whether to look ahead at other costs as well."""
    checks: tuple[Sanity, ...] = ("shuffled",)
    """Sanity checks of the AutoS that looks ahead."""


_TINY = Setting(task=Text(layers=1, heads=1, width=16, context=32), epochs=1, batch_size=512, grad_batches=1)
_BIG = Setting(task=Images(network="resnet18", source="cifar10", recipe_name="strong"), grad_batches=20)
_KINDS: Mapping[str, Sequence[Kind]] = {
    "full": (Kind(setting=_BIG, steps=11_264, labels=(0, 1)),),
    "small": (
        Kind(setting=LENET, steps=253, sparsities=(0.9, 0.95, 0.98, 0.99), further=True, checks=_ALL),
        Kind(setting=replace(LENET, task=Images(source="mnist")), steps=253, sparsities=(0.98, 0.99)),
        Kind(setting=RESNET, steps=112, sparsities=(0.98, 0.99)),
        Kind(setting=GPT, steps=163, one_shot=("random", "magnitude", "snip")),
    ),
    "smoke": (
        Kind(setting=DIGITS, steps=2, labels=(0,), sparsities=(0.9, 0.95), one_shot=("synflow",), further=True),
        Kind(setting=_TINY, steps=2, labels=(0,), sparsities=(0.9, 0.95), one_shot=("random",)),
    ),
}


def lookahead(scale: Scale) -> list[Part]:
    """AutoS looks ahead, its rivals at equal cost: `python launch/paper.py lookahead --scale small`.

    Runs of IRP by magnitude watch the first fifth of each training; AutoS is fitted to (theta0, theta_K) of all kinds
    of network together, of each alone, and to the paper's two inputs, the gradient averaged along the probe. Five
    rounds of a fifth of a training cost one training.
    The files to put into autosparse/autos/pretrained/lookahead are beside the report.
    To expect: above all that looks at the start alone; below gradual magnitude pruning over two trainings.
    """
    scale, kinds = kinds_of(scale)
    runs = {name: tuple(labelled(scale, kind, seed) for seed in kind.labels) for name, kind in kinds.items()}
    everything = tuple(run for each in runs.values() for run in each)
    weights = {"features": WEIGHTS, **fitting(scale.name)}
    gradients = {"features": ("theta", "probe-gradient"), **fitting(scale.name)}
    ahead = scale.fit_to(everything, name=PRETRAINED_AHEAD, **weights)
    mean_gradients = scale.fit_to(everything, name="gradients", **gradients)
    # the same network, its table small enough to come with the package
    shipped = scale.fit_to(everything, name="shipped", resolution=min(320, scale.fit.resolution), **weights)
    tables: list[AtCost] = []
    for name, kind in kinds.items():
        others = tuple(run for other, each in runs.items() if other != name for run in each)
        alone = scale.fit_to(runs[name], name=f"{name}-itself", **weights)
        learned = [
            Method(_AHEAD, ahead, everything, family=_AHEAD),
            Method("the same, labels from itself", alone, runs[name]),
        ]
        if others:
            by = scale.fit_to(others, name=f"{name}-others", **weights)
            learned.append(Method("the same, labels from the others", by, others))
        learned.append(Method("AutoS of mean gradients", mean_gradients, everything))
        for label, how in _further(kind).items():
            learned.append(Method(f"{_AHEAD}, {label}", ahead, everything, how=how, family=_AHEAD))
        tables.append(
            AtCost(
                title=f"Looking ahead: {name.replace('_', ' on ')}",
                stem=f"lookahead_{name}",
                scale=scale,
                pair=name,
                methods=(
                    *(Method(each, each, family=AT_START) for each in kind.one_shot),
                    Method("short IRP", "short-irp", family="short IRP"),
                    *(
                        Method(f"short IRP, {label}", "short-irp", how=how, family="short IRP")
                        for label, how in _further(kind).items()
                    ),
                    Method("SNIP of mean gradients", "snip-probe"),
                    *learned,
                    Method("GMP", "gmp", family="GMP"),
                    Method("GMP over two trainings", "gmp", how={"trainings": 2}, family="GMP"),
                    Method("RigL", "rigl", family="RigL"),
                    Method("RigL over two trainings", "rigl", how={"trainings": 2}, family="RigL"),
                    Method("IRP", None, iterative(scale, name), family="IRP"),
                ),
                sparsities=kind.sparsities,
                checked=(_AHEAD,),
                checks=kind.checks,
            )
        )
    shown = sorted(set.intersection(*({*table.sparsities} for table in tables)))[-2:][0]
    together = SideBySide(
        title=f"Accuracy against cost at {100 * shown:g}%", stem="lookahead_costs", tables=tuple(tables), sparsity=shown
    )
    return [together, *tables, Pretrained(shipped, everything, PRETRAINED_AHEAD)]


def kinds_of(scale: Scale) -> tuple[Scale, dict[str, Kind]]:
    """The scale of all that looks ahead, its own folder included, and its kinds of network by name."""
    kinds = {kind.setting.name: kind for kind in _KINDS[scale.name]}
    inner = replace(
        scale,
        settings={name: kind.setting for name, kind in kinds.items()},
        iterations={20: {"full": 20, "small": 8, "smoke": 2}[scale.name]},
        backbones={"resnet18": "mlp"},
        output=scale.output / PRETRAINED_AHEAD,
    )
    return inner, kinds


def labelled(scale: Scale, kind: Kind, seed: int) -> IRPRun:
    """A run of IRP by magnitude that watches the first steps of each training."""
    return scale.irp(kind.setting.name, "magnitude", seed=seed, probe_steps=kind.steps, probe_columns=_COLUMNS)


def fitting(scale: str) -> dict[str, Any]:
    """How AutoS is fitted to such runs."""
    return {"epochs": 10, "rounds": 2 if scale == "smoke" else 5, "anneal": True}


def _further(kind: Kind) -> dict[str, dict[str, Any]]:
    """Other costs than one training: a fifth of one, and two."""
    if not kind.further:
        return {}
    return {"shorter": {"steps": max(1, kind.steps // 5)}, "longer": {"rounds": 10, "steps": kind.steps}}
