"""A fitted AutoS network: how it scores, and how it is saved and loaded."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from autosparse import tensors
from autosparse.autos.backbones import make_network
from autosparse.autos.features import Features
from autosparse.autos.lookup_table import NOT_SAVED, TABLE
from autosparse.errors import UserError
from autosparse.files import read_json, write_json

WEIGHTS, CARD = "autos.safetensors", "autos.json"
# Parameters scored together, on CPU and GPU: the activations of an MLP are small, of a convolutional backbone large.
_CHUNKS = {"mlp": (1024, 65536)}


def gradient_mode(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the mode of batch normalization in the gradients of runs, from the attributes of their stores."""
    modes = sorted({run.get("gradient", {}).get("batch_norm", "batch") for run in runs})
    if len(modes) > 1:
        raise UserError(f"runs with gradients of different modes of batch norm ({' and '.join(modes)}) cannot be mixed")
    return modes[0] if modes else "batch"


@dataclass
class AutoS:
    """A fitted network that predicts survival; its lookup table is what prunes, see `tabulate`.

    Attributes:
        network: network from (B, width) to (B,).
        backbone: name of the network in `BACKBONES`.
        features: input transform.
        card: JSON values: the runs that the labels came from, the options of the fit, the held-out metrics.
    """

    network: nn.Module
    backbone: str
    features: Features
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    @property
    def label(self) -> str:
        """Name of the label that it predicts, one of `features.LABELS`."""
        return str(self.card.get("fit", {}).get("label", "share"))

    @property
    def rounds(self) -> int:
        """Number of rounds for which it was fitted; above 1, it was fitted to networks in all states of pruning."""
        return int(self.card.get("fit", {}).get("rounds", 1))

    @property
    def batch_norm(self) -> str:
        """Mode of batch normalization in the gradients of its fit, see `criteria.gradient.scoring_mode`."""
        return gradient_mode(self.card.get("runs", []))

    @torch.no_grad()
    def score(self, *columns: Tensor, scale: Sequence[float] | None = None) -> Tensor:
        """Return the predicted survival of parameters, float32 (P,), on their device.

        Args:
            columns: float32 (P,) each: initial weights and gradients of the mean loss, or the other columns of the
                features, see `Features.columns`.
            scale: magnitudes over the whole network, see `Features.scale`. Default: those of the columns, which must
                then be of the whole network.

        Raises:
            UserError: a column is not finite or all zero.
        """
        scale = scale or self.features.scale(*columns)
        theta = columns[0]
        network = self.network.to(theta.device).eval()
        chunk = _CHUNKS.get(self.backbone, (64, 2048))[theta.is_cuda]
        scores = torch.empty_like(theta)
        for start in range(0, len(theta), chunk):
            span = slice(start, start + chunk)
            scores[span] = network(self.features.encode(*(values[span] for values in columns), scale=scale))
        return scores

    def save(self, folder: str | Path) -> None:
        """Write `autos.safetensors` and then `autos.json` into a folder, each atomically."""
        folder = Path(folder)
        tensors.save(folder / WEIGHTS, self.network.state_dict(), {})
        write_json(folder / CARD, {"backbone": self.backbone, "features": asdict(self.features), "card": self.card})

    @staticmethod
    def fingerprint(folder: str | Path) -> str:
        """Return a digest, in hex, of a saved AutoS: its network, lookup table and card.

        Raises:
            UserError: the AutoS is missing.
        """
        paths = [path for name in (WEIGHTS, TABLE, CARD) if (path := Path(folder) / name).is_file()]
        if len(paths) < 2 or paths[-1].name != CARD:
            raise UserError(NOT_SAVED.format(folder))
        digest = hashlib.blake2b(digest_size=8)
        for path in paths:
            digest.update(path.read_bytes())
        return digest.hexdigest()

    @classmethod
    def load(cls, folder: str | Path) -> "AutoS":
        """Return the network that `save` wrote.

        Raises:
            UserError: the network is missing or damaged.
        """
        folder = Path(folder)
        if not all((folder / name).is_file() for name in (CARD, WEIGHTS)):
            raise UserError(NOT_SAVED.format(folder))
        try:
            saved = read_json(folder / CARD)
            features = Features(**saved["features"])
            network = make_network(saved["backbone"], features, seed=0)
            network.load_state_dict(tensors.load(folder / WEIGHTS)[0])
            return cls(network.eval(), saved["backbone"], features, saved["card"])
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"the AutoS in {folder} is damaged ({error}); delete it and fit it again") from error
