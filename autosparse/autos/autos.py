"""A fitted AutoS: what it scores, and how it is saved and loaded."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autosparse.autos.backbones import make_network
from autosparse.autos.features import Features, Scale
from autosparse.autos.labels import label_table
from autosparse.autos.table import TABLE, Surface
from autosparse.autos.tabulate import tabulate
from autosparse.errors import UserError
from autosparse.files import read_json, replacing, write_json

WEIGHTS, CARD = "autos.safetensors", "autos.json"
# parameters scored together, on CPU and GPU: the activations of a convolutional backbone are large, of an MLP small
_CHUNKS = {"mlp": (1024, 65536)}
_CHUNK = (64, 2048)


def gradient_mode(runs: Sequence[Mapping[str, Any]]) -> str:
    """The mode of batch normalization in the gradients of runs, by what their stores say of them.

    Raises:
        UserError: they differ.
    """
    modes = sorted({run.get("gradient", {}).get("batch_norm", "batch") for run in runs})
    if len(modes) > 1:
        raise UserError(f"runs with gradients of different modes of batch norm ({' and '.join(modes)}) cannot be mixed")
    return modes[0] if modes else "batch"


@dataclass
class AutoS:
    """A fitted criterion: network, input transform, and the card that says what made it.

    Attributes:
        network: from (B, width) to (B,), in evaluation mode when scoring.
        backbone: its name in `BACKBONES`.
        features: the input transform.
        card: JSON values: the runs that the labels came from, how it was fitted, the held-out metrics.
    """

    network: nn.Module
    backbone: str
    features: Features
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def label(self) -> str:
        """What it learned of survival: one of `labels.LABELS`."""
        return str(self.card.get("fit", {}).get("label", "share"))

    @property
    def rounds(self) -> int:
        """The rounds in which it is meant to prune: it was fitted to networks in all states of pruning if above 1."""
        return int(self.card.get("fit", {}).get("rounds", 1))

    def label_table(self, densities: list[float]) -> NDArray[np.float64]:
        """The label that it learned for each survival 0..N of a run, see `labels.label_table`."""
        return label_table(self.label, densities)

    @property
    def batch_norm(self) -> str:
        """Mode of batch normalization in the gradients that it learned from, see `criteria.gradient.scoring_mode`."""
        return gradient_mode(self.card.get("runs", []))

    @torch.no_grad()
    def score(self, *columns: Tensor, scale: Scale | None = None) -> Tensor:
        """Predicted survival of parameters, float32 (P,), on their device.

        Args:
            columns: float32 (P,) each: initial weights and gradients of the mean loss, and what else the features
                want, see `Features.columns`.
            scale: of the whole network; computed from the columns if not given, which must then be all of it.

        Raises:
            UserError: weights or gradients are not finite or all zero, or not the columns that the features want.
        """
        self.features.check(columns)
        scale = scale or self.features.scale(*columns)
        theta = columns[0]
        network = self.network.to(theta.device).eval()
        chunk = _CHUNKS.get(self.backbone, _CHUNK)[theta.is_cuda]
        scores = torch.empty_like(theta)
        for start in range(0, len(theta), chunk):
            span = slice(start, start + chunk)
            scores[span] = network(self.features.encode(*(values[span] for values in columns), scale=scale))
        return scores

    def surface(
        self,
        *columns: Tensor,
        scale: Scale | Sequence[Tensor] | None = None,
        resolution: int = 512,
        tolerance: float = 1e-3,
    ) -> Surface:
        """Tabulate the network, so that a score costs a lookup.

        Args:
            columns: a sample of parameters such as will be scored, float32 (S,) each as for `score`, in no particular
                order: every other one says where the table needs its nodes, the rest measure its error.
            scale: see `Features.encode`; that of the sample itself, if it is not given.
            resolution: nodes an axis, at most; for three inputs, as many nodes in all as for two.
            tolerance: fewer nodes will do if the error is nowhere above this.

        Raises:
            UserError: a sample of fewer than two, a resolution below 2, a tolerance below 0; see `Scale.of`.
        """
        return tabulate(self, columns, scale or self.features.scale(*columns), resolution, tolerance)

    @property
    def digest(self) -> str:
        """The digest of what is scored by, in hex: weights and buffers, by name."""
        digest = hashlib.blake2b(digest_size=8)
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write `autos.safetensors` and then `autos.json` into a folder; each is there whole or not at all."""
        folder = Path(folder)
        with replacing(folder / WEIGHTS) as temporary:
            save_file(
                {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}, temporary
            )
        write_json(folder / CARD, {"backbone": self.backbone, "features": asdict(self.features), "card": self.card})

    @staticmethod
    def fingerprint(folder: str | Path) -> str:
        """Digest of a saved criterion, its network, surface and card, in hex: another fit or table has another.

        Raises:
            UserError: it is missing.
        """
        digest = hashlib.blake2b(digest_size=8)
        there = [name for name in (WEIGHTS, TABLE, CARD) if (Path(folder) / name).is_file()]
        if CARD not in there or len(there) == 1:
            raise UserError(f"no saved AutoS in {folder}; fit one with: autosparse fit --runs RUN...")
        for name in there:
            digest.update((Path(folder) / name).read_bytes())
        return digest.hexdigest()

    @staticmethod
    def is_in(folder: str | Path) -> bool:
        """Whether a folder holds a network."""
        return all((Path(folder) / name).is_file() for name in (CARD, WEIGHTS))

    @classmethod
    def load(cls, folder: str | Path) -> "AutoS":
        """Read a criterion that `save` wrote.

        Raises:
            UserError: it is missing or damaged.
        """
        folder = Path(folder)
        if not cls.is_in(folder):
            raise UserError(f"no saved AutoS in {folder}; fit one with: autosparse fit --runs RUN...")
        try:
            saved = read_json(folder / CARD)
            features = Features.from_json(saved["features"])
            network = make_network(saved["backbone"], features, seed=0)
            network.load_state_dict(load_file(folder / WEIGHTS))
            return cls(network.eval(), saved["backbone"], features, saved["card"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise UserError(f"the AutoS in {folder} is damaged ({error}); delete it and fit it again") from error
        except Exception as error:  # safetensors' own error type
            if type(error).__name__ != "SafetensorError":
                raise
            raise UserError(f"the AutoS in {folder} is damaged ({error}); delete it and fit it again") from error
