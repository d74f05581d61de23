"""The lookup table of a fitted AutoS: the output of its network on a grid over the inputs, read by interpolation."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from autosparse import tensors
from autosparse.autos.features import Features
from autosparse.errors import UserError
from autosparse.files import read_json, write_json

TABLE, TABLE_CARD = "table.safetensors", "table.json"
NOT_SAVED = "no saved AutoS in {}; fit one with: autosparse fit --runs RUN..."
_MANY_OUTSIDE = 0.01  # fraction of the parameters outside the table that is worth a warning
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Axis:
    """One input of the network, and the positions of the table's nodes along it.

    Attributes:
        gain: the coordinate of a value is asinh(gain * value). With `scaled` features, the value is first divided by
            its magnitude over its network.
        low, high: range of the tabulated coordinates.
        warp: float32, rises from 0 to 1: position among the nodes, first to last, of evenly spaced coordinates.
    """

    gain: float
    low: float
    high: float
    warp: Tensor

    def nodes(self, resolution: int) -> Tensor:
        """Return the coordinates of the nodes, float64 (resolution,)."""
        coordinates = np.linspace(self.low, self.high, len(self.warp))
        positions = np.linspace(0.0, 1.0, resolution)
        return torch.from_numpy(np.interp(positions, self.warp.double().numpy(), coordinates))


@dataclass(frozen=True)
class LookupTable:
    """The output of an AutoS network at the nodes of a grid; linear between nodes, constant outside the grid.

    Attributes:
        features: input transform of the network.
        axes: one axis per input.
        values: float32, one dimension of `resolution` nodes per axis.
        error: absolute difference from the network on parameters that the grid was not made from: `max`, `mean` and
            `p999` (99.9th percentile) inside the grid; `samples`, their number; `clamped`, the fraction outside it.
        batch_norm, rounds: as `AutoS.batch_norm` and `AutoS.rounds`.
    """

    features: Features
    axes: tuple[Axis, ...]
    values: Tensor
    error: dict[str, float] = field(default_factory=dict)
    batch_norm: str = "batch"
    rounds: int = 1

    @torch.no_grad()
    def score(self, *columns: Tensor, scale: Sequence[float] | None = None) -> Tensor:
        """Return the predicted survival of parameters, float32 (P,), on their device.

        Logs the fraction of the parameters that lie outside the grid, as a warning above 1%.

        Args:
            columns: float32 (P,) each, see `Features.columns`.
            scale: magnitudes over the whole network, see `Features.scale`. Default: those of the columns, which must
                then be of the whole network.

        Returns:
            float32 (P,). Scores of NaN inputs are NaN.

        Raises:
            UserError: a column is not finite or all zero.
        """
        scale = scale or self.features.scale(*columns)
        scores = torch.empty_like(columns[0])
        count = torch.zeros((), dtype=torch.int64, device=scores.device)
        for span, values, outside in self.interpolate(columns, scale):
            scores[span] = values
            count += outside.count_nonzero()
        fraction = int(count) / len(scores)
        log.log(
            logging.WARNING if fraction > _MANY_OUTSIDE else logging.DEBUG,
            "%.2f%% of the parameters lie outside the lookup table and get the scores of its edge",
            100 * fraction,
        )
        return scores

    def interpolate(self, columns: Sequence[Tensor], scale: Sequence[float]) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield the scores of parameters chunk by chunk.

        Args:
            columns: float32 (P,) each, see `Features.columns`.
            scale: magnitudes over the whole network, see `Features.scale`.

        Yields:
            The span of the chunk; scores, float32 (B,); whether the parameters lie outside the grid, bool (B,).
        """
        device = columns[0].device
        table, warps = self.values.to(device), [axis.warp.to(device) for axis in self.axes]
        gains = [axis.gain for axis in self.axes]
        if self.features.transform == "scaled":
            gains = [gain / rms for gain, rms in zip(gains, self.features.pick(scale), strict=True)]
        inputs = self.features.pick(columns)
        # On a CPU the intermediate results of a chunk stay in the cache.
        chunk = torch.get_num_threads() << 15 if device.type == "cpu" else 1 << 21
        for start in range(0, len(columns[0]), chunk):
            span = slice(start, start + chunk)
            index = torch.zeros_like(inputs[0][span], dtype=torch.int32)
            outside, fractions = index > 0, []
            for axis, gain, warp, values, dim in zip(self.axes, gains, warps, inputs, range(table.dim()), strict=True):
                pieces, cells = len(warp) - 1, table.shape[dim] - 1
                position = (asinh(gain * values[span]) - axis.low) * (pieces / (axis.high - axis.low))
                outside |= (position < 0) | (position > pieces)
                piece, fraction = _split(position, pieces)
                low, high = warp.index_select(0, piece), warp[1:].index_select(0, piece)
                cell, fraction = _split((low + fraction * (high - low)) * cells, cells)
                index += cell * table.stride(dim)
                fractions.append(fraction)
            offsets = map(sum, itertools.product(*((0, stride) for stride in table.stride())))
            corners = [table.view(-1)[offset:].index_select(0, index) for offset in offsets]
            for fraction in reversed(fractions):
                pairs = zip(corners[::2], corners[1::2], strict=True)
                corners = [low + fraction * (high - low) for low, high in pairs]
            yield span, corners[0], outside

    def save(self, folder: str | Path) -> None:
        """Write `table.safetensors` and then `table.json` into a folder, each atomically."""
        folder = Path(folder)
        warps = {f"warp.{number}": axis.warp for number, axis in enumerate(self.axes)}
        tensors.save(folder / TABLE, {"table": self.values, **warps}, {})
        card = {
            "features": asdict(self.features),
            "axes": [{"gain": axis.gain, "low": axis.low, "high": axis.high} for axis in self.axes],
            "error": self.error,
            "batch_norm": self.batch_norm,
            "rounds": self.rounds,
        }
        write_json(folder / TABLE_CARD, card)

    @classmethod
    def load(cls, folder: str | Path) -> "LookupTable":
        """Return the table that `save` wrote; the network is not needed.

        Raises:
            UserError: the table is missing or damaged.
        """
        folder = Path(folder)
        if not (folder / TABLE_CARD).is_file():
            raise UserError(NOT_SAVED.format(folder))
        try:
            card, (saved, _) = read_json(folder / TABLE_CARD), tensors.load(folder / TABLE)
            features = Features(**card["features"])
            axes = tuple(Axis(**axis, warp=saved[f"warp.{number}"]) for number, axis in enumerate(card["axes"]))
            if len(axes) != features.width or saved["table"].dim() != features.width:
                raise ValueError(f"{len(axes)} axes for {features.width} inputs")
            return cls(features, axes, saved["table"], card["error"], card["batch_norm"], card["rounds"])
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise UserError(f"the lookup table in {folder} is damaged ({error}); fit the AutoS again") from error


def asinh(x: Tensor) -> Tensor:
    """Return asinh(x) three times as fast as torch.asinh, exact to 1e-7 in absolute terms, infinite from 1e19 on."""
    return torch.copysign(torch.log(x.abs() + torch.sqrt(x * x + 1)), x)


def _split(position: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Return the cell that contains each position, int32, and the fraction of the cell below the position."""
    position = position.clamp(0, cells)
    cell = position.int().clamp_(0, cells - 1)  # The cell of NaN is arbitrary but valid.
    return cell, position - cell
