"""What AutoS sees of a parameter: its initial value and gradient, brought to a scale that networks share."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from autosparse.errors import UserError, unknown
from autosparse.store import TripleStore

TRANSFORMS = ("scaled", "raw")
INPUTS = ("both", "param", "grad")
T = TypeVar("T")


@dataclass(frozen=True)
class Scale:
    """Root mean squares of theta and grad over a network."""

    theta: float
    grad: float

    @classmethod
    def of(cls, theta: Tensor, grad: Tensor) -> "Scale":
        """Of the weights and gradients of a whole network, (P,) each.

        Raises:
            UserError: see `of_store`.
        """
        return cls._checked(_mean_square(theta), _mean_square(grad))

    @classmethod
    def of_store(cls, store: TripleStore) -> "Scale":
        """Of the network that a store's triples come from, read piece by piece.

        Raises:
            UserError: a weight or gradient is not finite, or all are zero.
        """
        theta = grad = 0.0
        for _, columns in store.scan("theta", "grad"):
            theta += float(np.square(columns["theta"], dtype=np.float64).sum())
            grad += float(np.square(columns["grad"], dtype=np.float64).sum())
        return cls._checked(theta / len(store), grad / len(store))

    @classmethod
    def _checked(cls, theta: float, grad: float) -> "Scale":
        for name, value in (("weights", theta), ("gradients", grad)):
            if not np.isfinite(value):
                raise UserError(f"the {name} are not finite, so they cannot be scored")
            if value == 0.0:
                raise UserError(f"the {name} are zero everywhere, so they cannot be scored")
        return cls(theta**0.5, grad**0.5)


@dataclass(frozen=True)
class Features:
    """How (theta, grad) becomes the network's input.

    Attributes:
        transform: `scaled` divides each by its root mean square over the network and compresses by asinh, since the
            scale of a gradient depends on loss, data and depth and a criterion for other networks must not;
            `raw` passes them on as they are (the paper's code).
        inputs: `both`, or `param` or `grad` alone (paper, Table 2).
        theta_gain, grad_gain: of the asinh: it is linear below 1/gain root mean squares and logarithmic above.
    """

    transform: str = "scaled"
    inputs: str = "both"
    theta_gain: float = 3.0
    grad_gain: float = 30.0

    def __post_init__(self) -> None:
        if self.transform not in TRANSFORMS:
            raise unknown("features", self.transform, TRANSFORMS)
        if self.inputs not in INPUTS:
            raise unknown("inputs", self.inputs, INPUTS)

    @property
    def width(self) -> int:
        """Number of inputs of the network."""
        return 2 if self.inputs == "both" else 1

    def encode(self, theta: Tensor, grad: Tensor, scale: Scale | tuple[Tensor, Tensor]) -> Tensor:
        """The network's input, float32 (B, width), of theta and grad (B,).

        `scale` is that of the whole network the parameters belong to, or the two root mean squares for each parameter.
        """
        if self.transform == "scaled":
            theta_rms, grad_rms = (scale.theta, scale.grad) if isinstance(scale, Scale) else scale
            theta = torch.asinh(self.theta_gain * theta / theta_rms)
            grad = torch.asinh(self.grad_gain * grad / grad_rms)
        return torch.stack(self.pick(theta, grad), dim=1)

    def pick(self, theta: T, grad: T) -> list[T]:
        """Those of the two that are inputs."""
        return {"both": [theta, grad], "param": [theta], "grad": [grad]}[self.inputs]


def _mean_square(values: Tensor) -> float:
    """In double precision, without a copy of it all."""
    if values.is_cuda:
        return sum(float(chunk.double().square().sum()) for chunk in values.split(1 << 20)) / len(values)
    array = values.detach().numpy()  # four times as fast as PyTorch's sum of squares in double precision
    return float(np.einsum("i,i->", array, array, dtype=np.float64)) / len(array)
