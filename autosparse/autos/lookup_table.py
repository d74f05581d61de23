"""The lookup table of a fitted AutoS: the output of its network on a grid over the inputs, read by interpolation."""

import itertools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
        batch_norm: mode of batch normalization in the gradients that it scores.
        rounds: number of rounds for which it was fitted.
        name: name of its AutoS in messages; the folder that it was loaded from.

    Examples:
        >>> import autosparse.autos
        >>> from pathlib import Path
        >>> folder = Path(autosparse.autos.__file__).parent / "pretrained"
        >>> table = autosparse.autos.LookupTable.load(folder)
        >>> table.features.names, table.rounds
        (('theta', 'grad', 'flow'), 30)
    """

    features: Features
    axes: tuple[Axis, ...]
    values: Tensor
    error: dict[str, float] = field(default_factory=dict)
    batch_norm: str = "batch"
    rounds: int = 1
    name: str = "this AutoS"

    @torch.no_grad()
    def score(self, *columns: Tensor, scale: Sequence[float] | None = None) -> Tensor:
        """Return the predicted survival of parameters, float32 (P,), on their device; NaN where an input is NaN.

        Logs the fraction of the parameters that lie outside the grid, as a warning above 1%.

        Args:
            columns: float32 (P,) each, see `Features.columns`.
            scale: magnitudes over the whole network, see `Features.scale`. Default: those of the columns, which must
                then be of the whole network.

        Raises:
            UserError: a column is not finite or all zero.
        """
        interpolate = self.interpolator(columns, scale or self.features.scale(*columns))
        scores = torch.empty_like(columns[0])

        @torch.no_grad()  # The mode of the main thread does not hold in others.
        def score_chunk(start: int) -> int:
            span = slice(start, start + chunk)
            scores[span], outside = interpolate(span)
            return int(outside.count_nonzero())

        if scores.is_cuda:
            chunk = 1 << 21
            count = sum(map(score_chunk, range(0, len(scores), chunk)))
        else:  # PyTorch computes so few elements in one thread and in the cache, so chunks are divided among threads.
            chunk = 1 << 15
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                count = sum(pool.map(score_chunk, range(0, len(scores), chunk)))
        fraction = count / len(scores)
        log.log(
            logging.WARNING if fraction > _MANY_OUTSIDE else logging.DEBUG,
            "%.2f%% of the parameters lie outside the lookup table of %s and get the scores of its edge",
            100 * fraction,
            self.name,
        )
        return scores

    def interpolator(
        self, columns: Sequence[Tensor], scale: Sequence[float]
    ) -> Callable[[slice], tuple[Tensor, Tensor]]:
        """Return the function from a span to its parameters' scores, float32 (B,), and whether they lie outside, bool.

        Arguments are those of `score`.
        """
        device, inputs = columns[0].device, self.features.pick(columns)
        table, warps = self.values.to(device), [axis.warp.to(device) for axis in self.axes]
        gains = [axis.gain for axis in self.axes]
        if self.features.transform == "scaled":
            gains = [gain / rms for gain, rms in zip(gains, self.features.pick(scale), strict=True)]
        offsets = [sum(corner) for corner in itertools.product(*((0, stride) for stride in table.stride()))]
        corner_values = [table.view(-1)[offset:] for offset in offsets]

        def interpolate(span: slice) -> tuple[Tensor, Tensor]:
            index = torch.zeros_like(inputs[0][span], dtype=torch.int32)
            outside, fractions = index > 0, []
            for axis, gain, warp, values, dim in zip(self.axes, gains, warps, inputs, range(table.dim()), strict=True):
                pieces, cells = len(warp) - 1, table.shape[dim] - 1
                position = (asinh(gain * values[span]) - axis.low) * (pieces / (axis.high - axis.low))
                clamped = position.clamp(0, pieces)
                outside |= position != clamped
                piece, fraction = _split(clamped, pieces)
                low, high = warp.index_select(0, piece), warp[1:].index_select(0, piece)
                cell, fraction = _split(high.sub_(low).mul_(fraction).add_(low).mul_(cells), cells)
                index.add_(cell, alpha=table.stride(dim))
                fractions.append(fraction)
            corners = [values.index_select(0, index) for values in corner_values]
            for fraction in reversed(fractions):
                pairs = zip(corners[::2], corners[1::2], strict=True)
                corners = [high.sub_(low).mul_(fraction).add_(low) for low, high in pairs]
            return corners[0], outside

        return interpolate

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
            return cls(features, axes, saved["table"], card["error"], card["batch_norm"], card["rounds"], str(folder))
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise UserError(f"the lookup table in {folder} is damaged ({error}); fit the AutoS again") from error


def asinh(x: Tensor) -> Tensor:
    """Return the same as torch.asinh in a third of the time, exact to 1e-7 in absolute terms, infinite from 1e19 on."""
    return x.square().add_(1).sqrt_().add_(x.abs()).log_().copysign_(x)


def _split(position: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Return the cell of each position in 0..cells, int32, and the fraction of the cell below the position."""
    cell = position.int().clamp_(0, cells - 1)  # The cell of NaN is arbitrary but valid.
    return cell, position - cell
