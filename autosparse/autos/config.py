"""How AutoS is fitted."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from autosparse.autos.backbones import BACKBONES
from autosparse.autos.features import STORED, Features
from autosparse.autos.labels import LABELS
from autosparse.errors import UserError, unknown
from autosparse.sizes import parse_size


@dataclass(frozen=True)
class FitConfig:
    """How AutoS is fitted; the defaults are the paper's (appendix B.3) but for the small backbone.

    Attributes:
        backbone, features: the network and its input.
        epochs: passes over the triples.
        max_steps: to stop earlier, after so many steps; 0 for no such limit.
        batch_size: triples in a step, over all processes.
        learning_rate: of Adam.
        seed: of the initial weights, the order and the held-out tenth.
        memory, weights: see `TripleLoader`; no weights for each run once.
        label: of survival, see `labels.label_table`.
        resolution: of the surface, nodes an axis, at most.
        samples: how many triples, drawn evenly from everywhere, are fitted to; 0 for all of them. They are held in
            memory.
        anneal: whether the learning rate falls to 0 along a cosine, rather than staying what it is.
        rounds: in how many the criterion is meant to prune. Above 1 it is fitted to the networks that each iteration of
            the runs has left, see `trajectory`.
    """

    backbone: str = "mlp"
    features: Features = field(default_factory=Features)
    epochs: int = 10
    max_steps: int = 0
    batch_size: int = 1024
    learning_rate: float = 0.01
    seed: int = 0
    memory: str = "512MB"
    weights: tuple[float, ...] = ()
    label: str = "share"
    resolution: int = 512
    samples: int = 0
    rounds: int = 1
    anneal: bool = False

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise unknown("backbone", self.backbone, BACKBONES)
        if self.label not in LABELS:
            raise unknown("label", self.label, LABELS)
        if self.resolution < 2:
            raise UserError(f"--resolution must be at least 2, got {self.resolution}")
        if 0 != self.samples < 1024:
            raise UserError(f"samples must be 0 or at least 1,024, got {self.samples}")
        if self.rounds < 1:
            raise UserError(f"--rounds must be at least 1, got {self.rounds}")
        if self.by_states and self.features.transform == "raw":
            raise UserError("--features raw is for fits to stored triples, not with --rounds or --inputs both+flow")
        if self.samples and self.by_states:
            raise UserError("samples are for fits to stored triples, not with --rounds or --inputs both+flow")
        if self.epochs < 1:
            raise UserError(f"--epochs must be at least 1, got {self.epochs}")
        if self.max_steps < 0:
            raise UserError(f"--max-steps must be at least 0, got {self.max_steps}")
        parse_size(self.memory)
        if self.batch_size < 2:
            raise UserError(f"--batch-size must be at least 2, got {self.batch_size}")
        if not 0 < self.learning_rate < np.inf:
            raise UserError(f"--learning-rate must be a positive number, got {self.learning_rate}")

    @property
    def by_states(self) -> bool:
        """Whether it is fitted to measured states rather than to the triples of the stores."""
        return self.rounds > 1 or self.features.columns != STORED

    def only(self, runs: Sequence[int]) -> "FitConfig":
        """The configuration of a fit to these of its runs alone."""
        return replace(self, weights=tuple(self.weights[run] for run in runs if self.weights))
