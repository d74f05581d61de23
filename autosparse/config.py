"""The options of every kind of run, each with its default, its help and the values that it takes.

A job holds one of these dataclasses, the command line nests it, and the algorithm takes it whole. Nothing here imports
PyTorch.
"""

import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from autosparse.errors import UserError, unknown
from autosparse.sizes import parse_size

IRPCriterion = Literal["random", "magnitude", "snip", "grasp"]
"""Criteria of iterative pruning: the rows of `criteria.table` with `irp`."""
PRETRAINED, PRETRAINED_AHEAD = "pretrained", "lookahead"
"""Names of the built-in AutoS criteria: at initialization, and looking ahead."""
_PRETRAINED_FOLDER = Path(__file__).parent / "autos" / "pretrained"
_SHIPPED = {PRETRAINED: _PRETRAINED_FOLDER, PRETRAINED_AHEAD: _PRETRAINED_FOLDER / PRETRAINED_AHEAD}
SHIPPED: tuple[str, ...] = tuple(_SHIPPED)

BatchNorm = Literal["batch", "running"]
Rewind = Literal["all", "weights"]
Schedule = Literal["geometric", "linear", "constant"]
Backbone = Literal["mlp", "resnet18", "vgg19"]
Probed = Literal["probe-gradient", "probe-theta", "probe-rms"]
"""Measurements of a parameter by a probe."""
Feature = Literal["theta", "grad", "flow", Probed]
Transform = Literal["scaled", "raw", "raw-sum"]
Label = Literal["share", "min-max", "log-density", "rank"]
Sanity = Literal["none", "shuffled", "reinitialized", "inverted"]
Tracker = Literal["tensorboard", "wandb", "mlflow"]
"""Trackers that can follow a run, where they are installed."""

NO_IDENTITY: Mapping[str, Any] = {"identity": False}
"""Metadata of an option that says how or where a run works, or that another value of the identity is derived from."""


@dataclass(frozen=True)
class Bounds:
    """Limits of a number; a mark of a field's type, as in `Annotated[int, Bounds(1)]`."""

    low: float
    high: float = math.inf
    exclusive: bool = False

    def hold(self, value: float) -> bool:
        """Return True if a number is within the limits; NaN is not."""
        return math.isfinite(value) and (
            self.low < value < self.high if self.exclusive else self.low <= value <= self.high
        )

    def __str__(self) -> str:
        if self.high < math.inf:
            return (
                f"above {self.low:g} and below {self.high:g}" if self.exclusive else f"in {self.low:g}..{self.high:.0f}"
            )
        return "positive" if self.exclusive else f"at least {self.low:g}"


Seed = Annotated[int, Bounds(0, (1 << 32) - 1)]
SWEPT = tyro.conf.Suppress  # marks a field that a launch script takes several values of, to make a grid


class Config:
    """A dataclass of options that refuses values that its types do not allow."""

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, parts in _parts_of_fields(kind).items():
            value, called = getattr(self, name), name.replace("_", " ")
            if (value is None and NoneType in parts) or (isinstance(value, Path) and Path in parts):
                continue
            choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
            if bool in parts[:2]:  # the type itself, or below its marks
                choices = [True, False]
            several = choices and any(get_origin(part) is tuple for part in parts)
            for element in value if several else (value,):
                if choices and element not in choices:
                    raise unknown(called, element, [*choices, *(["a pathlib.Path"] if Path in parts else [])])
            bounds = next((part for part in parts if isinstance(part, Bounds)), None)
            if not bounds:
                continue
            number, wanted = (Real, "a number") if float in parts else (Integral, "a whole number")
            if isinstance(value, bool) or not isinstance(value, number):
                raise UserError(f"{called} must be {wanted}, got {value!r}")
            if not bounds.hold(float(value)):
                raise UserError(f"{called} must be {bounds}, got {value}")


@functools.cache
def _parts_of_fields(kind: Any) -> dict[str, list[Any]]:
    """Return the type of each field with all its parts and marks, the outermost first."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: [*_parts(hints[field.name])] for field in fields(kind)}


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for part in () if get_origin(hint) is Literal else get_args(hint):
        yield from _parts(part)


@dataclass(frozen=True, kw_only=True)
class IRPConfig(Config):
    """Iterative rewind pruning (paper, Algorithm 2)."""

    criterion: Annotated[IRPCriterion, SWEPT] = "snip"
    iterations: Annotated[int, Bounds(1)] = 20
    """Number of iterations, N: how often the network is pruned."""
    schedule: Schedule = "geometric"
    """How density falls from one iteration to the next."""
    final_sparsity: Annotated[float, Bounds(0, 1, exclusive=True)] = 0.99
    """Fraction of the weights that is removed after the last iteration (geometric and linear)."""
    rate: Annotated[float, Bounds(0, 1, exclusive=True)] = 0.85
    """Fraction of the remaining weights that each iteration keeps (constant)."""
    rewind_epoch: Annotated[int, Bounds(0)] = 0
    """Rewind to the state after this many epochs of the first training (Frankle et al. 2019), not to its start."""
    rewind: Rewind = "all"
    """all: rewind the whole state; weights: only the prunable weights, while biases, batch-norm weights and running
    statistics carry over from one training to the next (the paper's code)."""
    prune_first: bool = False
    """Choose the first mask at the initial weights, before any training (the paper's code)."""
    probe_steps: Annotated[int, Bounds(0)] = 0
    """Measure each kept parameter in this many first steps of each training, for a criterion that looks ahead; 0 for
    no such measurement."""
    probe_columns: tuple[Probed, ...] = ("probe-gradient",)
    """What to store of these steps: the mean gradient, the weight after them, the gradient's root mean square."""
    batch_norm: BatchNorm = "batch"
    """Statistics of batch norm in the stored gradient, SNIP and GraSP: batch, those of each batch; running, the running
    ones, which are the initial ones before any training (the paper's code)."""
    seed: Annotated[Seed, SWEPT] = 0
    order_seed: Annotated[Seed | None, SWEPT] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        unused = "final_sparsity" if self.schedule == "constant" else "rate"
        if getattr(self, unused) != getattr(IRPConfig, unused):
            raise UserError(f"{unused.replace('_', ' ')} does nothing with the {self.schedule} schedule")
        if not self.probe_columns or len({*self.probe_columns}) < len(self.probe_columns):
            raise UserError(f"probe columns are {', '.join(get_args(Probed))}, at least one, and each once")
        if not self.probe_steps and self.probe_columns != IRPConfig.probe_columns:
            raise UserError("probe columns do nothing without --probe-steps")
        if self.probe_steps and self.rewind_epoch:
            raise UserError("a probe starts from the initial weights, so it does not go with --rewind-epoch")
        if self.probe_steps and self.rewind != "all":
            raise UserError("a probe starts from the whole initial state, so it does not go with --rewind weights")

    @property
    def order(self) -> int:
        """Seed of the order of samples, augmentation and the random criterion."""
        return self.seed if self.order_seed is None else self.order_seed


@dataclass(frozen=True, kw_only=True)
class PruneConfig(Config):
    """Pruning at initialization by one criterion to one sparsity; at sparsity 0 the dense network."""

    criterion: Annotated[str, SWEPT] = "snip"
    sparsity: Annotated[float, SWEPT] = 0.95
    sanity: Annotated[Sanity, SWEPT] = "none"
    rounds: Annotated[int | None, Bounds(1)] = None
    """Number of rounds of an AutoS or of a criterion that looks ahead; 1 for one shot. Default: the criterion's own."""
    steps: Annotated[int | None, Bounds(1)] = None
    """Steps that a criterion which looks ahead trains in each round. Default: those of one training in all rounds."""
    trainings: Annotated[int, Bounds(1)] = 1
    """Train for this many times the recipe's epochs; 2 for baselines at the cost of looking ahead."""
    batch_norm: BatchNorm = "batch"
    """Statistics of batch norm while the criterion's gradients are computed: batch, those of each batch; running, the
    initial ones (as in the paper's code). Only for snip, iterative-snip, force, grasp and prospr."""
    seed: Annotated[Seed, SWEPT] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sparsity == 0:  # All criteria keep everything, so all runs are the same one.
            vars(self).update(criterion="magnitude", sanity="none", rounds=None, steps=None, batch_norm="batch")


@dataclass(frozen=True, kw_only=True)
class FitConfig(Config):
    """A fit of AutoS; the defaults are the paper's (appendix B.3) except for the small backbone."""

    backbone: Backbone = "mlp"
    """The network (paper, Table 7); resnet18 and vgg19 need a GPU."""
    features: tuple[Feature, ...] = ("theta", "grad")
    """Inputs of each parameter (paper, Table 2): its initial value, its gradient and how much flows through it; for a
    criterion that looks ahead, what runs with --probe-steps have measured."""
    transform: Transform = "scaled"
    """scaled: inputs are divided by their root mean square over the network and compressed; raw: unchanged; raw-sum:
    unchanged, with the gradient summed over its batches (the paper's code)."""
    label: Label = "share"
    """Target of the fit. share: the fraction of iterations that a parameter survives; min-max: the same, scaled to 0..1
    over the run; log-density: -log10 of the density at which it is pruned, comparable at any N; rank: the fraction of
    all parameters that are pruned before it."""
    epochs: Annotated[int, Bounds(1)] = 10
    """Passes over the triples."""
    max_steps: Annotated[int, Bounds(0)] = 0
    """Stop after this many steps; 0 for no limit."""
    batch_size: Annotated[int, Bounds(2)] = 1024
    """Number of triples in a batch, over all processes."""
    learning_rate: Annotated[float, Bounds(0, exclusive=True)] = 0.01
    """Learning rate of Adam."""
    anneal: bool = False
    """Let the learning rate fall to 0 along a cosine."""
    resolution: Annotated[int, Bounds(2)] = 512
    """Largest number of nodes per axis of the lookup table that prunes instead of the network. A table of three inputs
    has as many nodes in all as one of two."""
    samples: int = 0
    """Fit to this many triples, drawn evenly from all runs and held in memory; 0 for all triples."""
    rounds: Annotated[int, Bounds(1)] = 1
    """Number of rounds in which the criterion is to prune. Above 1 it is fitted to the masks of all iterations of the
    runs: gradient and flow are computed again, which needs the data of the runs; probes are read from the stores."""
    weights: tuple[float, ...] = ()
    """How often each run comes in an epoch, one number per run. Default: 1 for each."""
    memory: str = "512MB"
    """Memory of the shuffle buffer, over all processes; more shuffles better, and the order depends on it."""
    seed: Annotated[Seed, SWEPT] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_size(self.memory)
        if not all(0 < weight < math.inf for weight in self.weights):
            raise UserError(f"weights must be positive, got {' '.join(map(str, self.weights))}")
        if 0 != self.samples < 1024:
            raise UserError(f"samples must be 0 or at least 1,024, got {self.samples}")
        if not self.features or len({*self.features}) < len(self.features):
            raise UserError("a fit has at least one feature, and each once")
        if "grad" in self.features and self.looks_ahead:
            raise UserError("a criterion that looks ahead uses probe-gradient instead of grad")
        if self.by_states and self.transform != "scaled":
            transform = self.transform
            raise UserError(f"the transform {transform} is for fits to stored triples, not for rounds, flow or probes")
        if self.by_states and self.samples:
            raise UserError("samples are for fits to stored triples, not for rounds, flow or probes")

    @property
    def by_states(self) -> bool:
        """True if the fit is to the states of runs after each of their iterations, not to stored triples."""
        return self.rounds > 1 or not {*self.features} <= {"theta", "grad"}

    @property
    def looks_ahead(self) -> bool:
        """True if a feature is measured by a probe."""
        return any(name in get_args(Probed) for name in self.features)

    @property
    def recomputed(self) -> bool:
        """True if the states are measured again, which needs the data of the runs."""
        return self.by_states and not (self.looks_ahead and "flow" not in self.features)

    def only(self, runs: Sequence[int]) -> "FitConfig":
        """Return the options of a fit to some of its runs alone."""
        return replace(self, weights=tuple(self.weights[run] for run in runs if self.weights))


def is_folder(criterion: str | Path) -> bool:
    """Return True if a criterion is the folder of a saved AutoS rather than a name."""
    return isinstance(criterion, Path) or os.sep in criterion or Path(criterion).is_dir()


def folder_of(criterion: str | Path) -> Path:
    """Return the folder of a saved or built-in AutoS that is a criterion."""
    return _SHIPPED.get(str(criterion), Path(criterion))
