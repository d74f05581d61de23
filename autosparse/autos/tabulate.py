"""Making a lookup table: choosing the nodes, evaluating the network there, measuring the error."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autosparse.autos.autos import AutoS
from autosparse.autos.lookup_table import Axis, LookupTable, asinh
from autosparse.autos.samples import Samples

_FIRST_RESOLUTION = 64  # nodes per axis at which the search for the tolerance starts
_PIECES = 1024  # pieces of an axis's warp
_CURVATURE_NODES = 128  # nodes per axis at which the curvature is measured, at most
_MARGIN = 0.1  # fraction of the sample's range that is added at both ends, since other networks reach further
_EVEN = 0.5  # fraction of the nodes that is spread evenly, independent of the sample


def tabulate_held_out(autos: AutoS, samples: Samples) -> LookupTable:
    """Return the lookup table of a fit, made and measured with parameters that were held out."""
    parts = samples.tabulation()
    columns = [torch.cat(values).to(autos.device) for values in zip(*(part.columns for part in parts), strict=True)]
    scales = [torch.tensor(part.scale, dtype=torch.float32).expand(len(part), -1) for part in parts]
    scale = torch.cat(scales).to(autos.device).unbind(1)
    return tabulate(autos, *columns, scale=scale, resolution=samples.config.resolution)


def tabulate(
    autos: AutoS,
    *columns: Tensor,
    scale: Sequence[float | Tensor] | None = None,
    resolution: int = 512,
    tolerance: float = 1e-3,
) -> LookupTable:
    """Return the lookup table of a network, which scores a parameter by interpolation.

    Args:
        autos: fitted network.
        columns: random sample of parameters as they will be scored, float32 (S,) each, in random order. Every other
            parameter determines where the nodes are; the others measure the error.
        scale: magnitudes of the columns, see `Features.encode`. Default: those of the sample.
        resolution: largest number of nodes per axis. Three inputs get as many nodes in all as two.
        tolerance: the smallest table whose largest error is at most this is returned.

    Returns:
        The table, with its error on the sample.
    """
    features = autos.features
    if len(features.names) > 2:
        resolution = max(2, round(resolution ** (2 / len(features.names))))
    scale = scale or features.scale(*columns)
    gains = features.pick(features.gains)
    if features.transform == "scaled":
        columns = tuple(values / magnitude for values, magnitude in zip(columns, scale, strict=True))
    else:  # Gains are meant for values of magnitude 1.
        rms = features.pick([float(values.double().square().mean().sqrt()) for values in columns])
        gains = [gain / (value or 1.0) for gain, value in zip(gains, rms, strict=True)]
    device, unit = columns[0].device, (1.0,) * len(columns)  # The columns have been divided by their scale.
    sample = [asinh(gain * values[::2].cpu()) for gain, values in zip(gains, features.pick(columns), strict=True)]

    def network_at(axes: Sequence[Axis], nodes: int) -> Tensor:
        grid = torch.cartesian_prod(*(torch.sinh(axis.nodes(nodes)) / axis.gain for axis in axes))
        inputs = dict(zip(features.names, grid.view(-1, len(axes)).float().to(device).unbind(1), strict=True))
        unused = torch.zeros(len(grid), dtype=torch.float32, device=device)  # for columns that are not inputs
        scores = autos.score(*(inputs.get(name, unused) for name in features.columns), scale=unit)
        return scores.cpu().view([nodes] * len(axes))

    even = [_even_axis(gain, coordinates) for gain, coordinates in zip(gains, sample, strict=True)]
    axes = _warped(even, network_at(even, min(_CURVATURE_NODES, max(resolution, 3))), sample)
    test_columns = [values[1::2] for values in columns]
    expected = autos.score(*test_columns, scale=unit)
    nodes = min(_FIRST_RESOLUTION, resolution)
    while True:
        table = LookupTable(features, axes, network_at(axes, nodes), batch_norm=autos.batch_norm, rounds=autos.rounds)
        error = _error(table, test_columns, expected, unit)
        if error["max"] <= tolerance or nodes == resolution:
            return replace(table, error=error)
        nodes = min(2 * nodes, resolution)


def _even_axis(gain: float, coordinates: Tensor) -> Axis:
    """Return an axis over the range of the sample and a margin, with evenly spaced nodes."""
    low, high = coordinates.min().item(), coordinates.max().item()
    margin = _MARGIN * (high - low) or 1.0
    return Axis(gain, low - margin, high + margin, torch.linspace(0.0, 1.0, _PIECES + 1, dtype=torch.float32))


def _warped(axes: Sequence[Axis], values: Tensor, sample: Sequence[Tensor]) -> tuple[Axis, ...]:
    """Return the axes with denser nodes where the network is curved and the sample is dense.

    The mean error of linear interpolation is smallest where the density of nodes is proportional to the cube root of
    curvature times density of the data (de Boor 2001, A Practical Guide to Splines, XII). `values` is the output of the
    network at the nodes of the evenly spaced axes, and `sample` has coordinates along each axis.
    """
    nodes = len(values)
    nearest = torch.zeros(len(sample[0]), dtype=torch.int64)
    for axis, coordinates in zip(axes, sample, strict=True):
        position = (coordinates - axis.low) / (axis.high - axis.low) * (nodes - 1)
        nearest = nearest * nodes + position.round().long().clamp(0, nodes - 1)
    mass = torch.bincount(nearest, minlength=values.numel()).view(values.shape).double()
    warped = []
    for dim, axis in enumerate(axes):
        curvature = values.double().diff(n=2, dim=dim).abs() * mass.narrow(dim, 1, nodes - 2)
        along_axis = curvature.movedim(dim, 0).reshape(nodes - 2, -1).sum(1).numpy()
        warped.append(replace(axis, warp=_warp(np.pad(along_axis, 1, mode="edge"))))
    return tuple(warped)


def _warp(curvature: NDArray[np.float64]) -> Tensor:
    density = np.cbrt(curvature)
    density = _EVEN + (1 - _EVEN) * density / (density.mean() or 1.0)
    positions = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    fine = np.interp(np.linspace(0, 1, _PIECES + 1), np.linspace(0, 1, len(positions)), positions / positions[-1])
    return torch.from_numpy(fine).float()


def _error(table: LookupTable, columns: Sequence[Tensor], expected: Tensor, scale: Sequence[float]) -> dict[str, float]:
    """Return the error of a table, see `LookupTable.error`."""
    scores, outside = table.interpolator(columns, scale)(slice(None))
    errors = (scores - expected)[~outside].abs().cpu()
    return {
        "max": float(errors.max()),
        "mean": float(errors.double().mean()),
        "p999": float(np.quantile(errors.numpy(), 0.999)),
        "samples": len(expected),
        "clamped": 1 - len(errors) / len(expected),
    }
