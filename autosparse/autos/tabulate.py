"""Making a surface: where the nodes lie, what the network says there, how far off the rest is."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autosparse.autos.features import Scale
from autosparse.autos.lookup import asinh
from autosparse.autos.scorer import Scorer
from autosparse.autos.table import Axis, Surface
from autosparse.errors import UserError

_FIRST = 64  # nodes an axis that the search for the tolerance starts from
_PIECES = 1024  # of the warp of an axis
_COARSE = 128  # nodes an axis at which curvature is looked at, at most
_MARGIN = 0.1  # of the range of the sample, added at both ends: other networks reach further
_EVEN = 0.5  # share of the nodes that is spread evenly, whatever the sample says


def tabulate(
    autos: Scorer,
    columns: Sequence[Tensor],
    scale: Scale | Sequence[Tensor],
    resolution: int,
    tolerance: float,
) -> Surface:
    """See `AutoS.surface`."""
    features, samples = autos.features, len(columns[0])
    if samples < 2:
        raise UserError(f"a surface needs a sample of at least 2 parameters, got {samples}")
    if resolution < 2:
        raise UserError(f"the resolution of a surface must be at least 2, got {resolution}")
    if not tolerance >= 0:
        raise UserError(f"the tolerance of a surface must be 0 or more, got {tolerance}")
    if not all(values.isfinite().all() for values in columns):
        raise UserError("the sample for a surface holds weights or gradients that are not finite")
    if features.width > 2:
        resolution = max(2, round(resolution ** (2 / features.width)))
    gains = features.pick(features.gains)
    if features.transform == "scaled":
        rms: Sequence[float | Tensor] = scale.sizes if isinstance(scale, Scale) else scale
        columns = [values / size for values, size in zip(columns, rms, strict=True)]
    else:  # gains are for values of the size that they have in the sample
        sizes = features.pick([float(values.double().square().mean().sqrt()) for values in columns])
        gains = [gain / (size or 1.0) for gain, size in zip(gains, sizes, strict=True)]
    device, one = columns[0].device, Scale((1.0,) * len(columns))  # of values that have been divided by theirs
    shaping = [asinh(gain * values[::2].cpu()) for gain, values in zip(gains, features.pick(columns), strict=True)]

    def at(axes: Sequence[Axis], nodes: int) -> Tensor:
        """The network at the nodes."""
        grid = torch.cartesian_prod(*(torch.sinh(axis.nodes(nodes)) / axis.gain for axis in axes))
        found = dict(zip(features.names, grid.view(-1, len(axes)).float().to(device).unbind(1), strict=True))
        unread = torch.zeros(len(grid), dtype=torch.float32, device=device)  # in the place of a column that is no input
        scores = autos.score(*(found.get(name, unread) for name in features.columns), scale=one)
        return scores.cpu().view([nodes] * len(axes))

    even = [_even(gain, column) for gain, column in zip(gains, shaping, strict=True)]
    axes = _warped(even, at(even, min(_COARSE, max(resolution, 3))), shaping)
    measuring = [values[1::2] for values in columns]
    truth = autos.score(*measuring, scale=one)
    nodes = min(_FIRST, resolution)
    while True:
        surface = Surface(
            features, axes, at(axes, nodes), autos.digest, batch_norm=autos.batch_norm, rounds=autos.rounds
        )
        found, outside = surface.read(*measuring, scale=one)
        error = _error((found - truth)[~outside].abs().cpu(), len(truth))
        if error["max"] <= tolerance or nodes == resolution:
            return replace(surface, error=error)
        nodes = min(2 * nodes, resolution)


def _even(gain: float, coordinates: Tensor) -> Axis:
    """An axis over the range of the sample and a margin, its nodes evenly spaced."""
    low, high = coordinates.min().item(), coordinates.max().item()
    margin = _MARGIN * (high - low) or 1.0
    return Axis(gain, low - margin, high + margin, torch.linspace(0.0, 1.0, _PIECES + 1, dtype=torch.float32))


def _warped(axes: Sequence[Axis], values: Tensor, sample: Sequence[Tensor]) -> tuple[Axis, ...]:
    """The axes with their nodes where the network bends and parameters are.

    The mean error of linear interpolation is least where the density of nodes goes with the cube root of what
    curvature and density of the data make together (de Boor 2001, A Practical Guide to Splines, XII).

    Args:
        axes: evenly spaced.
        values: the network at their nodes, as many on each axis.
        sample: the coordinates of a sample along each.
    """
    nodes = len(values)
    nearest = torch.zeros(len(sample[0]), dtype=torch.int64)
    for axis, column in zip(axes, sample, strict=True):
        place = (column - axis.low) / (axis.high - axis.low) * (nodes - 1)
        nearest = nearest * nodes + place.round().long().clamp(0, nodes - 1)
    mass = torch.bincount(nearest, minlength=values.numel()).view(values.shape).double()
    warped = []
    for dim, axis in enumerate(axes):
        bends = values.double().diff(n=2, dim=dim).abs() * mass.narrow(dim, 1, nodes - 2)
        along = bends.movedim(dim, 0).reshape(nodes - 2, -1).sum(1).numpy()
        warped.append(Axis(axis.gain, axis.low, axis.high, _warp(np.pad(along, 1, mode="edge"))))
    return tuple(warped)


def _warp(bends: NDArray[np.float64]) -> Tensor:
    density = np.cbrt(bends)
    density = _EVEN + (1 - _EVEN) * density / (density.mean() or 1.0)
    places = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    fine = np.interp(np.linspace(0, 1, _PIECES + 1), np.linspace(0, 1, len(places)), places / places[-1])
    return torch.from_numpy(fine).float()


def _error(errors: Tensor, samples: int) -> dict[str, float]:
    """Summarize the errors of the samples that are not clamped."""
    if not len(errors):
        raise UserError("the surface does not reach its own sample; give a larger one")
    return {
        "max": float(errors.max()),
        "mean": float(errors.double().mean()),
        "p999": float(np.quantile(errors.numpy(), 0.999)),
        "samples": samples,
        "clamped": 1 - len(errors) / samples,
    }
