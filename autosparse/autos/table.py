"""An AutoS network tabulated over its inputs: a score costs a lookup instead of a pass through the network."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from autosparse.autos.features import Features, Scale
from autosparse.autos.lookup import make_lookup
from autosparse.autos.scorer import Scorer
from autosparse.errors import UserError
from autosparse.files import read_json, replacing, write_json
from autosparse.pruning import Mask, keep_top

TABLE, SURFACE_CARD = "surface.safetensors", "surface.json"
_MANY = 0.01  # share of parameters outside the table that is worth a warning
_ROUNDING = 1e-6  # by which compiled and plain lookups may differ
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Axis:
    """One input of the network, and how the nodes of the table lie along it.

    Attributes:
        gain: the coordinate of a value is asinh(gain * value), the value being divided by its size over its network
            if the features are `scaled`.
        low, high: the coordinates tabulated.
        warp: float32, rises from 0 to 1: the place among the nodes, first to last, of evenly spaced coordinates.
    """

    gain: float
    low: float
    high: float
    warp: Tensor

    def nodes(self, resolution: int) -> Tensor:
        """Coordinates of the nodes, float64 (resolution,)."""
        even = np.linspace(self.low, self.high, len(self.warp))
        places = np.linspace(0.0, 1.0, resolution)
        return torch.from_numpy(np.interp(places, self.warp.double().numpy(), even))


@dataclass(frozen=True)
class Surface:
    """A network's output at the nodes of a grid, linear in between and constant outside.

    Attributes:
        features: the input transform of the network.
        axes: one for each input.
        table: float32, (resolution,) an axis.
        network: digest of the network that was tabulated.
        error: absolute difference from the network over parameters that the grid was not made from: `max`, `mean` and
            `p999` (99.9th percentile) inside the table; `samples`, their number; `clamped`, the share outside it.
        batch_norm, rounds: as `AutoS.batch_norm` and `AutoS.rounds`.
    """

    features: Features
    axes: tuple[Axis, ...]
    table: Tensor
    network: str
    error: dict[str, float] = field(default_factory=dict)
    batch_norm: str = "batch"
    rounds: int = 1

    @torch.no_grad()
    def score(self, *columns: Tensor, scale: Scale | None = None) -> Tensor:
        """Predicted survival of parameters, float32 (P,), on their device. Memory beside them stays below 256 MiB.

        Logs the share of the parameters that lie outside what was tabulated, as a warning above 1%.

        Args:
            columns: float32 (P,) each, see `AutoS.score`.
            scale: of the whole network; computed from the columns if not given, which must then be all of it.

        Raises:
            UserError: weights or gradients are not finite or all zero, or not the columns that the features want.
        """
        self.features.check(columns)
        return self._score(columns, scale or self.features.scale(*columns))

    def _score(self, columns: Sequence[Tensor], scale: Scale, clamped: Tensor | None = None) -> Tensor:
        """`score`, which tells in bool (P,), too, whether a parameter lies outside."""
        scores = torch.empty_like(columns[0])
        count = torch.zeros((), dtype=torch.int64, device=scores.device)
        for span, found, outside in self._pieces(columns, scale):
            scores[span] = found
            count += outside.count_nonzero()
            if clamped is not None:
                clamped[span] = outside
        share = int(count) / len(scores)
        log.log(
            logging.WARNING if share > _MANY else logging.DEBUG,
            "%.2f%% of the parameters lie outside what the surface was tabulated on and are scored as its edge",
            100 * share,
        )
        return scores

    @torch.no_grad()
    def keep_top(
        self,
        *columns: Tensor,
        k: int,
        alive: Mask,
        autos: Scorer | None = None,
        scale: Scale | None = None,
    ) -> Mask:
        """The mask of the k parameters that score highest; with `autos`, the network's own.

        Args:
            columns: see `score`.
            k: see `autosparse.pruning.keep_top`.
            alive: see there, too.
            autos: the network that was tabulated.
            scale: see `score`.

        Raises:
            UserError: see `score` and `keep_top`; `autos` is another network.
        """
        if autos is None:
            return keep_top(self.score(*columns, scale=scale), k, alive)
        return keep_top(self.refined(*columns, k=k, alive=alive, autos=autos, scale=scale), k, alive)

    @torch.no_grad()
    def refined(self, *columns: Tensor, k: int, alive: Mask, autos: Scorer, scale: Scale | None = None) -> Tensor:
        """Scores float32 (P,) of which the k highest alive are those of the network.

        It scores the parameters near the threshold itself. Where the surface errs by e at most, the network's threshold
        lies within e of the surface's, so only what is within 2e of that is in doubt, and what is clamped, where
        nothing bounds the error. e is the error that was measured when the surface was made, or that of the parameters
        in doubt where it is larger; of those that are not looked at it is taken for granted.

        Args, raises: see `keep_top`.
        """
        self.check(autos)
        self.features.check(columns)
        scale = scale or self.features.scale(*columns)
        clamped = torch.empty_like(columns[0], dtype=torch.bool)
        scores = self._score(columns, scale, clamped)
        if k in (0, alive.count):
            return scores
        mask = keep_top(scores, k, alive)
        pieces = zip(scores.split(1 << 22), mask.kept.split(1 << 22), strict=True)
        threshold = min(float(piece.where(kept, torch.inf).min()) for piece, kept in pieces)
        error, near = self.error["max"], -1.0
        chosen, own = list[Tensor](), list[Tensor]()
        while True:
            far = 2 * error + _ROUNDING
            index = _in_doubt(scores, clamped, alive, threshold, near, far)
            chosen.append(index)
            own.append(autos.score(*(values[index] for values in columns), scale=scale))
            off = (own[-1] - scores[index])[~clamped[index]].abs()
            worst = float(off.max()) if len(off) else 0.0
            if worst <= error:
                break
            error, near = worst, far  # these parameters lie where the sample had none: look further
        count = sum(map(len, chosen))
        log.debug("%.2f%% of the parameters scored by the network itself", 100 * count / len(scores))
        for index, values in zip(chosen, own, strict=True):
            scores[index] = values
        return scores

    def check(self, autos: Scorer) -> None:
        """Refuse another network than the one tabulated.

        Raises:
            UserError: it is another.
        """
        if autos.digest != self.network or autos.features != self.features:
            raise UserError("the surface is that of another network; tabulate this one with AutoS.surface")

    def read(self, *columns: Tensor, scale: Scale) -> tuple[Tensor, Tensor]:
        """Scores float32 (P,) as `score` gives them, and bool (P,), whether they are clamped."""
        pieces = [piece for _, *piece in self._pieces(columns, scale)]
        scores, outside = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        return scores, outside

    def _pieces(self, columns: Sequence[Tensor], scale: Scale) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Scores and whether they are clamped, some parameters at a time."""
        device, parameters = columns[0].device, len(columns[0])
        axes, table = self._axes(device, scale), self.table.to(device)
        find, size = make_lookup(device, parameters)
        for start in range(0, parameters, size):
            span = slice(start, start + size)
            yield span, *find(self.features.pick([values[span] for values in columns]), axes, table)

    def _axes(self, device: torch.device, scale: Scale) -> list[tuple[Tensor, Tensor]]:
        """The axes as `lookup` takes them, for parameters of a network of this scale."""
        found = []
        for axis, rms in zip(self.axes, self.features.pick(scale.sizes), strict=True):
            gain = axis.gain / rms if self.features.transform == "scaled" else axis.gain
            constants = [gain, axis.low, (len(axis.warp) - 1) / (axis.high - axis.low)]
            found.append((torch.tensor(constants, dtype=torch.float32, device=device), axis.warp.to(device)))
        return found

    def save(self, folder: str | Path) -> None:
        """Write `surface.safetensors` and then `surface.json` into a folder; each is there whole or not at all."""
        folder = Path(folder)
        tensors = {"table": self.table, **{f"warp.{number}": axis.warp for number, axis in enumerate(self.axes)}}
        with replacing(folder / TABLE) as temporary:
            save_file(tensors, temporary)
        axes = [{"gain": axis.gain, "low": axis.low, "high": axis.high} for axis in self.axes]
        card = {
            "features": asdict(self.features),
            "axes": axes,
            "network": self.network,
            "error": self.error,
            "batch_norm": self.batch_norm,
            "rounds": self.rounds,
        }
        write_json(folder / SURFACE_CARD, card)

    @staticmethod
    def is_in(folder: str | Path) -> bool:
        """Whether a folder holds a surface."""
        return (Path(folder) / SURFACE_CARD).is_file()

    @classmethod
    def load(cls, folder: str | Path) -> "Surface":
        """Read a surface that `save` wrote; the network is not needed.

        Raises:
            UserError: it is missing or damaged.
        """
        folder = Path(folder)
        if not cls.is_in(folder):
            raise UserError(f"no saved surface in {folder}; fit an AutoS with: autosparse fit --runs RUN...")
        try:
            card, tensors = read_json(folder / SURFACE_CARD), load_file(folder / TABLE)
            features = Features.from_json(card["features"])
            axes = tuple(Axis(**axis, warp=tensors[f"warp.{number}"]) for number, axis in enumerate(card["axes"]))
            if len(axes) != features.width or tensors["table"].dim() != features.width:
                raise ValueError(f"{len(axes)} axes for {features.width} inputs")
            made = {key: card[key] for key in ("network", "error", "batch_norm", "rounds")}
            return cls(features, axes, tensors["table"], **made)
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise UserError(f"the surface in {folder} is damaged ({error}); fit the AutoS again") from error


def _in_doubt(scores: Tensor, clamped: Tensor, alive: Mask, threshold: float, near: float, far: float) -> Tensor:
    """Indices of the parameters alive whose distance from the threshold is above `near`, and `far` at most.

    Those that are clamped are in doubt at any distance, and come with the first, whose `near` is below 0.
    """
    found, start = list[Tensor](), 0
    columns = (column.split(1 << 22) for column in (scores, clamped, alive.kept))
    for score, outside, kept in zip(*columns, strict=True):
        distance = (score - threshold).abs()
        doubted = (distance > near) & (distance <= far)
        doubted = doubted | outside if near < 0 else doubted & ~outside
        found.append((doubted & kept).nonzero().squeeze(1) + start)
        start += len(score)
    return torch.cat(found)
