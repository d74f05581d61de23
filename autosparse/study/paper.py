"""The paper's tables and figures: each is a function whose docstring says its cost and the paper's result.

`autosparse paper NAME --scale full|narrow|small|smoke` runs one; `scale.py` has the networks of each scale. The numbers
of jobs and training runs are those that `--dry-run` prints for the full scale, where a training run has 160 epochs
except for LeNet-300-100 (100) and Tiny-ImageNet (300). `all` runs common jobs once: 1,313 jobs, 2,326 training runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from autosparse.config import IRPCriterion
from autosparse.jobs import IRPRun
from autosparse.study.parts import Agreement, Comparison, Method, Part, Predictions, Scores
from autosparse.study.scale import Scale

_CIFAR = "resnet18/cifar10"  # the network and data of most of the paper's tables
_NINETIES = (0.7, 0.9, 0.95, 0.99)
_PANELS = ("lenet/mnist", _CIFAR, "vgg16/cifar10", "vgg19/cifar100")
_CURVE = (0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
_AUTHORS: Mapping[str, Any] = {  # options of IRP as in the authors' code
    "schedule": "linear",
    "batch_norm": "running",
    "prune_first": True,
    "rewind": "weights",
}
_AUTOS = (93.09, 92.63, 92.00, 88.78)  # the paper's default at `_NINETIES`: SNIP, 20 iterations, ResNet-18


def figure1(scale: Scale) -> list[Part]:
    """Survival against theta, SNIP and GraSP at initialization: `autosparse paper figure1 --scale full`.

    2 jobs, 21 training runs. One run of IRP (SNIP) of LeNet-300-100 on MNIST.
    To expect: no line in any of the three panels.
    """
    return [Scores("Figure 1: survival and values at initialization", "figure1", scale.irp("lenet/mnist"))]


def figure3(scale: Scale) -> list[Part]:
    """Criteria against sparsity on four networks: `autosparse paper figure3 --scale full`.

    807 jobs, 825 training runs. The default AutoS (IRP with SNIP of ResNet-18 on CIFAR-10 and one fit),
    the dense networks, each criterion at six sparsities and three seeds, sanity checks of SNIP and AutoS at 98%.
    The paper: AutoS 2 points above SNIP on VGG-16 and VGG-19, 0.8 at 95% and 0.5 at 99% on ResNet-18; GraSP weak at low
    sparsity.
    """
    names = {"random": "random", "SNIP": "snip", "GraSP": "grasp", "NPB": "npb", **{n: n for n in scale.extras}}
    baselines = tuple(Method(label, name) for label, name in names.items())
    return [
        _panel("3", scale, pair, (*baselines, _autos("AutoS", scale)), checked=("SNIP", "AutoS"))
        for pair in scale.distinct(*_PANELS)
    ]


def figure4(scale: Scale) -> list[Part]:
    """Survival and its prediction before and after the fit: `autosparse paper figure4 --scale full`.

    3 jobs, 21 training runs. The default AutoS alone.
    To expect: scores that rise with |theta|, and less with |grad|.
    """
    return [Predictions("Figure 4: survival and prediction", "figure4", (_autos("AutoS", scale),), before=True)]


def figure5(scale: Scale) -> list[Part]:
    """Predictions from theta alone and from grad alone: `autosparse paper figure5 --scale full`.

    4 jobs, 21 training runs. Two more fits to the labels of Figure 4.
    To expect: curves without noise, rising with |grad| and |theta|.
    """
    fits = (_autos("Only Grad", scale, features=("grad",)), _autos("Only Param", scale, features=("theta",)))
    return [Predictions("Figure 5: one input alone", "figure5", fits)]


def figure6(scale: Scale) -> list[Part]:
    """AutoS by labels and backbone, compared with iterative pruning: `autosparse paper figure6 --scale full`.

    240 jobs, 396 training runs. Three fits, two runs of IRP (magnitude, which is LTH, and SNIP) on each of four
    networks, three seeds of each fit at six sparsities.
    The paper: the three fits are alike except on LeNet and VGG; a gap to iterative pruning remains.
    """
    fits = (
        _autos("AutoS", scale),
        _autos("AutoS-LeNet", scale, scale.irp("lenet/mnist")),
        _autos("AutoS-VGG19", scale, backbone="vgg19"),
    )
    panels: list[Part] = []
    for pair in scale.distinct(*_PANELS):
        lth = Method("LTH (iterative)", None, (scale.irp(pair, "magnitude"),))
        snip = Method("SNIP-iter (iterative)", None, (scale.irp(pair, "snip"),))
        panels.append(_panel("6", scale, pair, _distinct(*fits, lth, snip)))
    return panels


def table1(scale: Scale) -> list[Part]:
    """Criteria on ResNet-18 and Tiny-ImageNet: `autosparse paper table1 --scale full`.

    63 jobs, 81 training runs. Four criteria at 30, 50, 70 and 90% and three seeds, sanity checks, the dense network,
    and the default AutoS, whose labels come from ResNet-18 on CIFAR-10.
    The paper: NPB best, AutoS second.
    """
    sparsities = (0.3, 0.5, 0.7, 0.9)
    methods = (
        Method("SNIP", "snip", paper=(59.88, 58.34, 57.45, 53.16)),
        Method("GraSP", "grasp", paper=(57.83, 56.54, 55.43, 54.43)),
        Method("NPB", "npb", paper=(60.35, 59.35, 58.70, 56.40)),
        _autos("AutoS", scale, paper=(60.02, 59.23, 58.05, 55.32)),
    )
    return [_table("Table 1: criteria on Tiny-ImageNet", scale, methods, sparsities, "resnet18/tiny-imagenet")]


def table2(scale: Scale) -> list[Part]:
    """Inputs of AutoS: `autosparse paper table2 --scale full`.

    53 jobs, 69 training runs. Three fits to one run of IRP.
    The paper: both inputs together gain a point at 99%.
    """
    methods = (
        _autos("Only Param", scale, features=("theta",), paper=(93.07, 92.40, 91.78, 87.6)),
        _autos("Only Grad", scale, features=("grad",), paper=(93.27, 92.53, 91.70, 87.99)),
        _autos("Param + Grad", scale, paper=_AUTOS),
    )
    return [_table("Table 2: inputs of AutoS", scale, methods)]


def table3(scale: Scale) -> list[Part]:
    """Criterion of the IRP that labels come from: `autosparse paper table3 --scale full`.

    41 jobs, 78 training runs. Two runs of IRP, a fit to each.
    The paper: SNIP's labels win from 95% on.
    """
    methods = (
        _autos("LTH", scale, scale.irp(_CIFAR, "magnitude"), paper=(93.41, 92.09, 89.96, 79.15)),
        _autos("SNIP-iter", scale, paper=_AUTOS),
    )
    return [_table("Table 3: criterion of the iterative pruning", scale, methods)]


def table4(scale: Scale) -> list[Part]:
    """Data and network that labels come from, and backbone: `autosparse paper table4 --scale full`.

    97 jobs, 168 training runs. Four runs of IRP, two fits to each, three seeds at three sparsities.
    The paper: labels of VGG-19 and Tiny-ImageNet collapse at 99%, the backbone matters little.
    """
    sparsities = (0.9, 0.95, 0.99)
    reported = {
        "lenet/mnist": ((91.94, 91.79, 88.07), (91.88, 91.60, 88.00)),
        _CIFAR: ((92.63, 92.00, 88.78), (92.46, 91.83, 88.24)),
        "vgg19/cifar100": ((92.71, 56.26, 37.54), (92.41, 91.63, 19.40)),
        "resnet18/tiny-imagenet": ((92.55, 91.55, 64.04), (92.21, 91.23, 60.04)),
    }
    methods = []
    for pair, both in reported.items():
        for backbone, figures in zip(("resnet18", "vgg19"), both, strict=True):
            label = f"{pair.replace('/', ' on ')}, {backbone}"
            methods.append(_autos(label, scale, scale.irp(pair), backbone=backbone, paper=figures))
    return [_table("Table 4: labels and backbone", scale, _distinct(*methods), sparsities)]


def table5(scale: Scale) -> list[Part]:
    """Iterations of the IRP: `autosparse paper table5 --scale full`.

    55 jobs, 211 training runs. 163 of them are for the labels.
    The paper: 20 iterations do as well as 100.
    """
    methods = (
        _autos("20-iter", scale, paper=_AUTOS),
        *(
            _autos(f"{n}-iter", scale, scale.irp(_CIFAR, iterations=n), paper=figures)
            for n, figures in ((40, (93.21, 92.57, 91.88, 88.66)), (100, (93.24, 92.20, 91.87, 88.45)))
        ),
    )
    return [_table("Table 5: iterations", scale, methods)]


def table6(scale: Scale) -> list[Part]:
    """Merged labels, and what cures that of 20, 40 and 100 iterations: `autosparse paper table6 --scale full`.

    84 jobs, 298 training runs.
    The paper: that merge falls to 47.56 and 10.00 at 95 and 99%. Two more rows, not in the paper: its labels as minima
    and maxima of each run bring them to one scale, and as the logarithm of the density at death.
    """
    irp = {n: scale.irp(_CIFAR, iterations=n) for n in (20, 40, 100)}
    merged = tuple(irp.values())
    three = tuple(scale.irp(_CIFAR, seed=seed) for seed in (0, 1, 2))
    both = (irp[20], scale.irp(_CIFAR, "magnitude"))
    methods = (
        _autos("20+40+100", scale, *merged, paper=(93.17, 92.74, 47.56, 10.00)),
        _autos("20+40+100, min-max", scale, *merged, label="min-max"),
        _autos("20+40+100, log-density", scale, *merged, label="log-density"),
        _autos("3*20", scale, *three, paper=(93.17, 92.50, 91.73, 88.39)),
        _autos("LTH+SNIP", scale, *both, paper=(92.90, 92.59, 91.70, 88.45)),
    )
    return [_table("Table 6: merged labels", scale, methods)]


def table8(scale: Scale) -> list[Part]:
    """Batch size and learning rate of the fit: `autosparse paper table8 --scale full`.

    77 jobs, 87 training runs. Nine fits to one run of IRP.
    The paper: 95% is robust but at the ends, 99% is not.
    """
    reported = [
        *((128, 0.01, 91.65, 54.21), (256, 0.01, 91.72, 79.59), (512, 0.01, 91.70, 55.70), (1024, 0.01, 91.90, 79.20)),
        *((2048, 0.01, 91.75, 71.28), (4096, 0.01, 82.26, 53.49), (4096, 0.001, 91.49, 71.07)),
        *((4096, 0.0005, 91.60, 53.54), (4096, 0.0001, 83.07, 62.92)),
    ]
    methods = []
    for batch, rate, *figures in reported:
        label = f"batch {batch}, learning rate {rate:g}"
        methods.append(_autos(label, scale, batch_size=batch, learning_rate=rate, paper=figures))
    return [_table("Table 8: batch and learning rate of the fit", scale, methods, (0.95, 0.99))]


def table9(scale: Scale) -> list[Part]:
    """Concordance of survival between runs of IRP: `autosparse paper table9 --scale full`.

    37 jobs, 756 training runs. LeNet-300-100 on MNIST by four criteria, from the same initial weights and from
    others, three repetitions: 36 runs of IRP.
    The paper: near 0 except for SNIP with SNIP (0.24), magnitude with magnitude (0.16), both (0.12).
    """
    irp = partial(scale.irp, "lenet/mnist")
    names: dict[str, IRPCriterion] = {"Random": "random", "SNIP": "snip", "Mag": "magnitude", "GraSP": "grasp"}
    paper = {
        "Random & Random": (-0.00106, -0.00106),
        "SNIP & SNIP": (0.23642, -0.04542),
        "Mag & Mag": (0.15582, 0.10285),
        "GraSP & GraSP": (0.08059, 0.04373),
        "Random & Mag": (0.00083, -0.00413),
        "Random & GraSP": (0.00109, 0.00259),
        "Random & SNIP": (-0.00108, -0.00245),
        "SNIP & Mag": (0.12314, 0.03424),
        "SNIP & GraSP": (-0.07117, -0.04450),
        "Mag & GraSP": (-0.05968, -0.01872),
    }
    pairs = {}
    for label in paper:
        a, b = (names[name] for name in label.split(" & "))
        same, different = [], []
        for seed in range(0, 2 * scale.repetitions, 2):
            same.append((irp(a, seed=seed), irp(b, seed=seed, order_seed=seed + 1 if a == b else None)))
            different.append((irp(a, seed=seed), irp(b, seed=seed + 1)))
        pairs[label] = same, different
    return [Agreement("Table 9: concordance of survival", pairs, paper)]


def authors(scale: Scale) -> list[Part]:
    """The protocol of the authors' code and ours: `autosparse paper authors --scale small`.

    130 jobs, 243 training runs. LeNet-300-100 from Kaiming normal and from PyTorch's initial weights, and ResNet-18 on
    CIFAR-10: SNIP with both modes of batch norm, magnitude, AutoS by our protocol and by theirs (see `_AUTHORS`), three
    seeds at 95 and 99%, and masks shuffled within layers.
    To expect: from PyTorch's initial weights AutoS below SNIP; shuffled masks on par with the others or better.
    """
    lenet, *others = scale.distinct("lenet/mnist", _CIFAR)
    setting = scale.settings[lenet]
    torchs = replace(setting, task=replace(setting.task, init="torch"))
    pairs = [(lenet, scale), (lenet, replace(scale, settings={**scale.settings, lenet: torchs}))]
    parts: list[Part] = []
    for pair, here in [*pairs, *((pair, scale) for pair in others)]:
        theirs = here.irp(pair, **_AUTHORS)
        methods = (
            Method("magnitude", "magnitude"),
            Method("SNIP", "snip"),
            Method("SNIP, running statistics", "snip", how={"batch_norm": "running"}),
            _autos("AutoS", here, here.irp(pair)),
            _autos("AutoS, the authors' protocol", here, theirs, transform="raw-sum", label="min-max"),
        )
        name, checked = here.settings[pair].name, tuple(method.label for method in methods[-2:])
        title, stem = f"The authors' protocol: {name.replace('_', ' on ')}", f"authors_{name}"
        shown = scale.shown((0.95, 0.99))
        parts.append(Comparison(title, stem, here, pair, methods, shown, checked=checked, checks=("shuffled",)))
    return parts


PLANS: dict[str, Callable[[Scale], list[Part]]] = {
    plan.__name__: plan
    for plan in (
        *(figure1, figure3, figure4, figure5, figure6),
        *(table1, table2, table3, table4, table5, table6, table8, table9),
    )
}


def _autos(label: str, scale: Scale, /, *sources: IRPRun, paper: Sequence[float] = (), **how: Any) -> Method:
    """Return AutoS fitted to runs of IRP. Default: the paper's run."""
    runs = sources or (scale.irp(_CIFAR),)
    return Method(label, scale.fit_to(runs, **how), tuple(dict.fromkeys(runs)), paper)


def _panel(figure: str, scale: Scale, pair: str, methods: tuple[Method, ...], **how: Any) -> Comparison:
    """Return one panel of the paper's Figures 3 and 6."""
    title = f"Figure {figure}: {scale.settings[pair].name.replace('_', ' on ')}"
    stem = f"figure{figure}_{pair.replace('/', '_')}"
    return Comparison(title, stem, scale, pair, methods, scale.shown(_CURVE), **how)


def _table(
    title: str, scale: Scale, methods: Sequence[Method], sparsities: tuple[float, ...] = _NINETIES, pair: str = _CIFAR
) -> Comparison:
    """Return a table of fits, with sanity checks of the default AutoS or, if it has no row, of the last row."""
    default = [method.label for method in methods if method.by == scale.fit_to((scale.irp(_CIFAR),))]
    checked = tuple(default[:1]) or (methods[-1].label,)
    stem = title.split(":")[0].lower().replace(" ", "")
    return Comparison(title, stem, scale, pair, (*methods,), scale.shown(sparsities), checked=checked)


def _distinct(*methods: Method) -> tuple[Method, ...]:
    """Return the methods that differ at this scale."""
    seen = dict[object, Method]()
    for method in methods:
        seen.setdefault((method.by, method.sources), method)
    return tuple(seen.values())
