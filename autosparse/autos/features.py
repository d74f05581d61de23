"""What AutoS sees of a parameter: its initial value and gradient, and more if asked, at a scale that networks share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from autosparse.config import FitConfig, Probed, Transform
from autosparse.criteria.base import Scoring, check_repeatable
from autosparse.criteria.dataflow import dataflow
from autosparse.criteria.gradient import mean_gradient
from autosparse.errors import UserError, unknown
from autosparse.lookahead import look_ahead
from autosparse.pruning import Mask
from autosparse.store import TripleStore

STORED = ("theta", "grad")  # in every store of triples
_NAMES = {
    "theta": "weights",
    "grad": "gradients",
    "flow": "flows",
    "probe-gradient": "gradients along a probe",
    "probe-theta": "weights after a probe",
    "probe-rms": "sizes of gradients along a probe",
}
T = TypeVar("T")


@dataclass(frozen=True)
class Scale:
    """The size of each column over a network: the mean of flow, the root mean square of all others.

    Few flows are thousands of times the others, and would make a root mean square of their own.
    """

    sizes: tuple[float, ...]

    @classmethod
    def of(
        cls, *columns: Tensor, names: Sequence[str] = STORED, alive: Mask | None = None, pruned: bool = False
    ) -> "Scale":
        """The scale of the weights, gradients and so on of a whole network, float32 (P,) each.

        Args:
            *columns: see `Features.columns`.
            names: names of the columns.
            alive: the parameters that are left of it; all, if it is not given.
            pruned: whether the columns are of what is left of a network alone.

        Raises:
            UserError: values are not finite; all zero, in a network of which nothing was pruned.
        """
        if alive is not None and alive.count < alive.layout.size:
            return cls.of(*(values[alive.kept] for values in columns), names=names, pruned=True)
        squares = [_square(name, values) for name, values in zip(names, columns, strict=True)]
        # nothing flows through a network that rounds have cut in two: its zeros are then on any scale
        return cls._checked(names, [square or 1.0 for square in squares] if pruned else squares)

    @classmethod
    def of_store(cls, store: TripleStore) -> "Scale":
        """The scale of the network that a store's triples come from, as its ledger has them.

        Raises:
            UserError: a weight or gradient is not finite, or all are zero.
        """
        return cls._checked(STORED, [store.mean_squares[name] for name in STORED])

    @classmethod
    def _checked(cls, names: Sequence[str], squares: Sequence[float]) -> "Scale":
        for name, value in zip(names, squares, strict=True):
            if not np.isfinite(value):
                raise UserError(f"the {_NAMES[name]} are not finite, so they cannot be scored")
            if value == 0.0:
                raise UserError(f"the {_NAMES[name]} are zero everywhere, so they cannot be scored")
        return cls(tuple(value**0.5 for value in squares))


@dataclass(frozen=True)
class Features:
    """How what is known of a parameter becomes the network's input.

    Attributes:
        transform: `scaled` divides each by its size over the network and compresses by asinh, since the
            scale of a gradient depends on loss, data and depth and a criterion for other networks must not;
            `raw` passes them on as they are (the paper's code).
        names: the inputs, of `config.Feature`: `theta` and `grad`, or one alone (paper, Table 2); `flow`, the
            parameter's share in what flows through the network, see `criteria.dataflow.dataflow`; what a probe sees,
            see `lookahead.Probe`.
        gains: of the asinh, one a column: it is linear below 1/gain sizes and logarithmic above. `GAINS` if not given.
    """

    transform: str = "scaled"
    names: tuple[str, ...] = STORED
    gains: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.transform not in get_args(Transform):
            raise unknown("transform", self.transform, get_args(Transform))
        for name in self.names:
            if name not in _NAMES:
                raise unknown("feature", name, _NAMES)
        if not self.gains:
            object.__setattr__(self, "gains", tuple(GAINS[name] for name in self.columns))
        if len(self.gains) != len(self.columns):
            raise UserError(f"features {' and '.join(self.columns)} have {len(self.gains)} gains; give one for each")

    @classmethod
    def of(cls, config: FitConfig) -> "Features":
        """Those that a fit is asked for."""
        return cls(config.transform, config.features)

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Features":
        """The inverse of `dataclasses.asdict`."""
        return cls(saved["transform"], tuple(saved["names"]), tuple(saved["gains"]))

    @property
    def columns(self) -> tuple[str, ...]:
        """What must be known of a parameter: the inputs; theta and grad, both, where they are all that is looked at."""
        return STORED if {*self.names} <= {*STORED} else self.names

    @property
    def probed(self) -> tuple[Probed, ...]:
        """Those of the inputs that a probe sees."""
        return tuple(name for name in get_args(Probed) if name in self.names)

    @property
    def width(self) -> int:
        """Number of inputs of the network."""
        return len(self.names)

    def encode(self, *columns: Tensor, scale: Scale | Sequence[Tensor]) -> Tensor:
        """The network's input, float32 (B, width), of columns (B,).

        `scale` is that of the whole network the parameters belong to, or the sizes for each parameter.
        """
        if self.transform == "scaled":
            sizes = scale.sizes if isinstance(scale, Scale) else scale
            values: Iterable[tuple[float, Tensor, Any]] = zip(self.gains, columns, sizes, strict=True)
            columns = tuple(torch.asinh(gain * column / size) for gain, column, size in values)
        return torch.stack(self.pick(columns), dim=1)

    def check(self, columns: Sequence[Tensor]) -> None:
        """Refuse what are not these features' columns.

        Raises:
            UserError: others are given, or not float32 vectors of one length.
        """
        names = " and ".join(_NAMES[name] for name in self.columns)
        given = " and ".join(f"{values.dtype} {tuple(values.shape)}" for values in columns)
        first = columns[0] if columns else torch.empty(0, 0)
        wrong = any(each.dtype != torch.float32 or each.shape != first.shape for each in columns) or first.dim() != 1
        if wrong or len(columns) != len(self.columns):
            raise UserError(f"this AutoS reads {names}, float32 vectors of one length; got {given or 'nothing'}")

    def pick(self, columns: Sequence[T]) -> list[T]:
        """Those of the columns that are inputs."""
        return [columns[self.columns.index(name)] for name in self.names]

    def measure(self, model: nn.Module, mask: Mask, scoring: Scoring, batch_norm: str = "batch") -> tuple[Tensor, ...]:
        """The columns of a network's parameters, float32 (P,) each, on its device.

        Args:
            model: with the mask applied.
            mask: what is left of it.
            scoring: batches and loss; with a learner for what a probe sees, which is measured in one.
            batch_norm: mode of the gradient, see `criteria.gradient.scoring_mode`.
        """
        if "grad" in self.columns and "flow" in self.columns:
            check_repeatable(scoring)
        seen = look_ahead("this AutoS", model, mask, scoring, self.probed) if self.probed else {}
        return tuple(
            seen[name] if name in seen else _MEASURES[name](model, mask, scoring, batch_norm) for name in self.columns
        )

    def scale(self, *columns: Tensor, alive: Mask | None = None) -> Scale:
        """The scale of these columns, see `Scale.of`."""
        return Scale.of(*columns, names=self.columns, alive=alive)


def _theta(model: nn.Module, mask: Mask, scoring: Scoring, batch_norm: str) -> Tensor:
    return mask.layout.flatten(mask.layout.weights(model)).float()


def _grad(model: nn.Module, mask: Mask, scoring: Scoring, batch_norm: str) -> Tensor:
    return mean_gradient(model, mask.layout, scoring, batch_norm)


def _flow(model: nn.Module, mask: Mask, scoring: Scoring, batch_norm: str) -> Tensor:
    try:
        return dataflow(model, mask, scoring)
    except UserError as error:
        raise UserError(f"this AutoS looks at what flows through each weight: {error}") from error


# a new feature: its name in `config.Feature` and `_NAMES`, its gain, and how it is measured
GAINS = {"theta": 3.0, "grad": 30.0, "flow": 1e6, "probe-gradient": 30.0, "probe-theta": 3.0, "probe-rms": 30.0}
_MEASURES: dict[str, Callable[[nn.Module, Mask, Scoring, str], Tensor]] = {
    "theta": _theta,
    "grad": _grad,
    "flow": _flow,
}


def _square(name: str, values: Tensor) -> float:
    """The square of the size of a column."""
    return float(values.mean(dtype=torch.float64)) ** 2 if name == "flow" else _mean_square(values)


def _mean_square(values: Tensor) -> float:
    """The mean of the squares, in double precision and without a copy of it all."""
    if values.is_cuda:
        return sum(float(chunk.double().square().sum()) for chunk in values.split(1 << 20)) / len(values)
    array = values.detach().numpy()  # four times as fast as PyTorch's sum of squares in double precision
    return float(np.einsum("i,i->", array, array, dtype=np.float64)) / len(array)
