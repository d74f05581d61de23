"""The balance of nodes and paths in one layer (Pham et al. 2023), solved for any width and any groups."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array, hstack, vstack
from torch import nn

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Channels:
    """What a layer connects: in each of its groups every input with every output, by a kernel of so many weights."""

    groups: int
    inputs: int
    outputs: int
    shape: tuple[int, ...]
    transposed: bool

    @classmethod
    def of(cls, module: nn.Module, shape: tuple[int, ...]) -> "Channels":
        """The channels of a linear layer or a convolution, whose weight has this shape."""
        groups = int(getattr(module, "groups", 1))
        transposed = isinstance(module, _TRANSPOSED)
        inputs, outputs = (shape[0] // groups, shape[1]) if transposed else (shape[1], shape[0] // groups)
        return cls(groups, inputs, outputs, shape, transposed)

    @property
    def kernel(self) -> int:
        """Weights of a kernel."""
        return int(np.prod(self.shape[2:]))

    @property
    def kernels(self) -> int:
        """How many there are."""
        return self.groups * self.inputs * self.outputs

    def pieces(self, chunk: int | None) -> Iterator[tuple[slice, "Channels"]]:
        """So many outputs of each group at a time, the last ones maybe fewer; all at once if None."""
        step = chunk or self.outputs
        for start in range(0, self.outputs, step):
            outputs = min(step, self.outputs - start)
            ends = (self.groups * self.inputs, outputs) if self.transposed else (self.groups * outputs, self.inputs)
            yield slice(start, start + outputs), replace(self, outputs=outputs, shape=(*ends, *self.shape[2:]))

    def view(self, weight: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A weight as (group, input, output, position); nothing is copied."""
        if self.transposed:
            return weight.reshape(self.groups, self.inputs, self.outputs, self.kernel)
        return weight.reshape(self.groups, self.outputs, self.inputs, self.kernel).swapaxes(1, 2)


def balance(
    channels: Channels, paths: Floats, count: int, alpha: float, beta: float, cap: int | None = None
) -> Integers:
    """How many weights each input channel gets so that α f_n + (1 - α) f_p + β f_k is largest.

    Only the sums matter: with r weights of one input dealt evenly over the outputs, as `deal` does, min(r, outputs) of
    its kernels are in use and min(all, outputs) of the outputs, whatever the other inputs have, and no other way of
    dealing gives more of either. So the matrix of kernels is replaced by its row sums, and inputs of a group that as
    many paths enter, which can take each other's place, share one number of weights evenly. Its value is concave and
    piecewise linear: the first weight of each input, the first of each further kernel, the others. What is left is a
    linear program over these three numbers for each count of paths, and the outputs in use of each group.

    Args:
        channels: of the layer.
        paths: entering each input channel, (groups * inputs,).
        count: weights to place.
        alpha, beta: see `NPB`.
        cap: of the weights of a kernel; more if `count` needs it.

    Returns:
        Weights of each input channel, adding up to `count`, none above outputs * kernel, or outputs * cap.
    """
    full = channels.kernel if cap is None else min(channels.kernel, max(cap, -(-count // channels.kernels)))
    most = channels.outputs * full
    paths = np.round(paths / max(paths.max(), np.finfo(float).tiny), 9)
    group = np.repeat(np.arange(channels.groups), channels.inputs)
    kinds, kind, members = np.unique(np.stack([group, paths]), axis=1, return_inverse=True, return_counts=True)
    home, entering = kinds[0].astype(int), kinds[1]

    highest = np.sort(paths)[::-1]
    carried = highest @ np.clip(count - most * np.arange(len(highest)), 0, most)  # the most paths: the best inputs full
    node = alpha * count / (len(paths) + channels.groups * channels.outputs)  # all times count, to be near 1
    path = (1 - alpha) * count * entering / max(carried, np.finfo(float).tiny)
    gains = [path + beta + node * (entering > 0), path + beta, path, np.full(channels.groups, node)]
    room = [members, members * (channels.outputs - 1), members * channels.outputs * (full - 1)]
    room.append(np.full(channels.groups, channels.outputs))

    n = len(members)
    placed = np.concatenate([np.ones(3 * n), np.zeros(channels.groups)])[None]
    fed = coo_array(((entering > 0).astype(float), (home, np.arange(n))), shape=(channels.groups, n))
    in_use = hstack([fed, fed, fed, coo_array(-np.eye(channels.groups))])
    solution = milp(
        -np.concatenate(gains),
        integrality=np.ones(3 * n + channels.groups),
        bounds=Bounds(0, np.concatenate(room).astype(float)),
        constraints=LinearConstraint(
            csr_array(vstack([csr_array(placed), in_use])),
            [count] + [0] * channels.groups,
            [count] + [np.inf] * channels.groups,
        ),
    )
    totals = np.rint(solution.x[: 3 * n].reshape(3, n).sum(0)).astype(np.int64)
    return _share(totals, kind.reshape(-1), members)


def _share(totals: Integers, kind: Integers, members: Integers) -> Integers:
    """Each kind's total, shared evenly among its members."""
    position = np.empty_like(kind)  # of a member among its kind
    order = np.argsort(kind, kind="stable")
    position[order] = np.arange(len(kind)) - np.repeat(np.cumsum(members) - members, members)
    return totals[kind] // members[kind] + (position < totals[kind] % members[kind])


def deal(channels: Channels, units: Integers, generator: np.random.Generator) -> NDArray[np.bool_]:
    """A mask of a layer in which input channel i has `units[i]` weights, spread evenly over the outputs.

    An input gives each output as many, and what remains to those outputs that have least so far, drawn from the
    generator where they have as much; likewise the positions within a kernel.
    """
    weight = np.zeros(channels.shape, np.bool_)
    view = channels.view(weight)
    for g, rows in enumerate(units.reshape(channels.groups, channels.inputs)):
        load = np.zeros(channels.outputs, np.int64)
        for i in np.flatnonzero(rows):
            each, rest = divmod(int(rows[i]), channels.outputs)
            sums = np.full(channels.outputs, each)
            if rest:
                sums[np.argpartition(load + generator.random(channels.outputs), rest - 1)[:rest]] += 1
            load += sums
            drawn = generator.random((channels.outputs, channels.kernel)).argsort(1).argsort(1)
            view[g, i] = drawn < sums[:, None]
    return weight
