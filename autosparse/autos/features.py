"""Features of a parameter, on a scale that networks share, and the label of its survival: input and target of AutoS."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autosparse.config import FitConfig, Label, Probed
from autosparse.criteria.base import Scoring
from autosparse.criteria.gradient import mean_gradient
from autosparse.criteria.synflow import dataflow
from autosparse.distributed import all_reduce
from autosparse.errors import UserError, unknown
from autosparse.lookahead import look_ahead
from autosparse.pruning import Mask
from autosparse.store import TripleStore

LABELS: tuple[str, ...] = get_args(Label)
STORED = ("theta", "grad")  # columns in every store of triples
T = TypeVar("T")
Measure = Callable[[nn.Module, Mask, Scoring, str], Tensor]


def _theta(model: nn.Module, mask: Mask, scoring: Scoring, batch_norm: str) -> Tensor:
    return mask.layout.flatten(mask.layout.weights(model)).float()


def _grad(model: nn.Module, mask: Mask, scoring: Scoring, batch_norm: str) -> Tensor:
    return mean_gradient(model, mask.layout, scoring, batch_norm)


def _grad_sum(model: nn.Module, mask: Mask, scoring: Scoring, batch_norm: str) -> Tensor:
    numbers = itertools.count()
    batches = (batch for batch, _ in zip(scoring.batches, numbers, strict=False))
    mean = _grad(model, mask, replace(scoring, batches=batches), batch_norm)
    count = torch.tensor(next(numbers), device=mean.device)
    all_reduce(count)
    return mean.mul_(count)


def _flow(model: nn.Module, mask: Mask, scoring: Scoring, batch_norm: str) -> Tensor:
    try:
        return dataflow(model, mask, scoring)
    except UserError as error:
        raise UserError(f"this AutoS needs the flow through each weight: {error}") from error


class _Feature(NamedTuple):
    """Name in messages, gain (see `Features`), and the function that measures it; None if a probe does."""

    name: str
    gain: float
    measure: Measure | None = None


# A new feature needs a row here and a name in `config.Feature`.
FEATURES = {
    "theta": _Feature("weights", 3.0, _theta),
    "grad": _Feature("gradients", 30.0, _grad),
    "flow": _Feature("flows", 1e6, _flow),
    "probe-gradient": _Feature("gradients along a probe", 30.0),
    "probe-theta": _Feature("weights after a probe", 3.0),
    "probe-rms": _Feature("rms gradients along a probe", 30.0),
}


@dataclass(frozen=True)
class Features:
    """The inputs of the network, and how they are computed from the columns that are known of a parameter.

    Attributes:
        transform: `scaled` divides each input by its magnitude over the network and compresses it by asinh, since the
            scale of a gradient depends on loss, data and depth, and a criterion for other networks must not. `raw`
            leaves inputs unchanged. `raw-sum` leaves them unchanged, too, but the gradient is summed over its batches
            instead of averaged (the paper's code).
        names: the inputs, of `config.Feature`: `theta` and `grad`, or one of them (paper, Table 2); `flow`, the
            parameter's contribution to the flow through the network, see `criteria.synflow.dataflow`; columns of a
            probe, see `lookahead.Probe`.
        gains: gain of the asinh of each column, linear below 1/gain magnitudes and logarithmic above. Default: see
            `FEATURES`.
    """

    transform: str = "scaled"
    names: tuple[str, ...] = STORED
    gains: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))  # lists if read from JSON
        object.__setattr__(self, "gains", tuple(self.gains) or tuple(FEATURES[name].gain for name in self.columns))

    @classmethod
    def of(cls, config: FitConfig) -> "Features":
        """Return the features of a fit."""
        return cls(config.transform, config.features)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the required columns: the inputs, but both theta and grad if there are no other inputs."""
        return STORED if {*self.names} <= {*STORED} else self.names

    @property
    def probed(self) -> tuple[Probed, ...]:
        """Names of the inputs that a probe measures."""
        return tuple(name for name in get_args(Probed) if name in self.names)

    def encode(self, *columns: Tensor, scale: Sequence[float | Tensor]) -> Tensor:
        """Return the input of the network, float32 (B, number of inputs), from columns float32 (B,).

        The scale has the magnitude of each column: a number, or float32 (B,) for parameters of several networks.
        """
        if self.transform == "scaled":
            columns = tuple(
                torch.asinh(gain * values / magnitude)
                for gain, values, magnitude in zip(self.gains, columns, scale, strict=True)
            )
        return torch.stack(self.pick(columns), dim=1)

    def pick(self, columns: Sequence[T]) -> list[T]:
        """Return the columns that are inputs, in the order of the inputs."""
        return [columns[self.columns.index(name)] for name in self.names]

    def measure(self, model: nn.Module, mask: Mask, scoring: Scoring, batch_norm: str = "batch") -> tuple[Tensor, ...]:
        """Return the columns of a masked network's parameters, float32 (P,) each, on its device.

        A probe needs a learner. `batch_norm` is the mode of the gradient, see `criteria.gradient.scoring_mode`.
        """
        probe = look_ahead("this AutoS", model, mask, scoring, self.probed) if self.probed else {}
        if self.transform == "raw-sum":
            return _theta(model, mask, scoring, batch_norm), _grad_sum(model, mask, scoring, batch_norm)
        measures = {name: FEATURES[name].measure for name in self.columns}
        return tuple(
            measure(model, mask, scoring, batch_norm) if measure else probe[name] for name, measure in measures.items()
        )

    def gradient_factor(self, store: TripleStore) -> float:
        """Return the factor from the gradient in a store to the feature: with `raw-sum` the number of its batches."""
        if self.transform != "raw-sum":
            return 1.0
        if "gradient" not in store.run:
            raise UserError(f"{store.storage} does not say the batches of its gradient, which raw-sum needs")
        gradient = store.run["gradient"]
        return float(math.ceil(gradient["samples"] / gradient["batch_size"]))

    def scale(self, *columns: Tensor, pruned: bool = False) -> tuple[float, ...]:
        """Return the magnitude of each column over a network: the mean of flow, the root mean square of all others.

        Few flows are thousands of times larger than the others and would dominate a root mean square. The columns,
        float32 (P,), are of all parameters of a network or, with `pruned`, of those that remain. A UserError names a
        column that is not finite, or all zero in a network that is not pruned.
        """
        squares = [_square(name, values) for name, values in zip(self.columns, columns, strict=True)]
        # Nothing flows through a network that rounds have disconnected: zeros fit any scale.
        return _roots(self.columns, [square or 1.0 for square in squares] if pruned else squares)


def scale_of_store(store: TripleStore) -> tuple[float, ...]:
    """Return the magnitudes of theta and grad over the network of a store, from its ledger."""
    return _roots(STORED, [store.mean_squares[name] for name in STORED])


def _roots(names: Sequence[str], squares: Sequence[float]) -> tuple[float, ...]:
    for name, square in zip(names, squares, strict=True):
        if not 0.0 < square < math.inf:
            problem = "zero everywhere" if square == 0.0 else "not finite"
            raise UserError(f"the {FEATURES[name].name} are {problem}, so they cannot be scored")
    return tuple(square**0.5 for square in squares)


def _square(name: str, values: Tensor) -> float:
    """Return the square of the magnitude of a column, in double precision but without a copy of the whole column."""
    if name == "flow":
        return float(values.mean(dtype=torch.float64)) ** 2
    if values.is_cuda:
        return sum(float(chunk.double().square().sum()) for chunk in values.split(1 << 20)) / len(values)
    array = values.detach().numpy()  # NumPy is four times as fast as PyTorch here.
    return float(np.einsum("i,i->", array, array, dtype=np.float64)) / len(array)


def label_table(label: str, densities: list[float]) -> NDArray[np.float64]:
    """Return the label of each survival 0..N of a run.

    `share`: s / N, the fraction of the iterations that a parameter survived. `min-max`: survival scaled to 0..1 over
    the survivals that occur in the run (the paper's code). `log-density`: -log10 of the density of the last mask that
    keeps the parameter, which means the same for any N and schedule; at 1% density it is 2. `rank`: the fraction of
    the run's parameters that a parameter outlived, where those of equal survival count half. The densities are those of
    the masks m_0..m_N; the labels are float64 (N + 1,).
    """
    if label not in LABELS:
        raise unknown("label", label, LABELS)
    survival = np.arange(len(densities), dtype=np.float64)
    iterations = len(densities) - 1
    if label == "share":
        return survival / iterations
    if label == "min-max":
        lowest = sum(density == 1.0 for density in densities) - 1
        highest = sum(density > 0.0 for density in densities) - 1
        return (survival - lowest) / (highest - lowest)
    if label == "rank":
        return 1 - (np.asarray(densities) + np.append(densities[1:], 0.0)) / 2
    return -np.log10(densities)
