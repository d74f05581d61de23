"""What AutoS is fitted to and measured by: parameters of runs, what is known of them and their labels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from accelerate import Accelerator
from torch import Tensor

from autosparse.autos.features import Features, Scale
from autosparse.autos.sampler import WeightedSampler
from autosparse.config import FitConfig
from autosparse.store import TripleLoader, TripleStore
from autosparse.store.order import Part


@dataclass(frozen=True)
class Sample:
    """Some parameters whose labels are known.

    Attributes:
        columns: float32 (S,) each, see `Features.columns`.
        scale: of the network that they are part of.
        labels: float64 (S,).
        iteration: the iteration of their run that left their network so, int64 (S,); 0 is the initial state.
    """

    columns: tuple[Tensor, ...]
    scale: Scale
    labels: Tensor
    iteration: Tensor

    def encode(self, features: Features) -> tuple[Tensor, Tensor]:
        """Input float32 (S, width) and label float32 (S,)."""
        return features.encode(*self.columns, scale=self.scale), self.labels.float()


@dataclass(frozen=True)
class SampleLoader:
    """Batches of input float32 (B, width) and label float32 (B,), epoch after epoch.

    Attributes:
        sampler: says which samples come when, and knows the position.
        encode: makes input and label of what the sampler gives.
    """

    sampler: TripleLoader | WeightedSampler
    encode: Callable[[Any], tuple[Tensor, Tensor]]

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The rest of the current epoch."""
        return map(self.encode, self.sampler)

    @classmethod
    def in_memory(
        cls, samples: Sequence[Sample], weights: Tensor, config: FitConfig, accelerator: Accelerator
    ) -> "SampleLoader":
        """This process's part of the batches of samples that are drawn by their weights, float64 (S,) for all."""
        device = accelerator.device
        encoded = [sample.encode(Features.of(config)) for sample in samples]
        inputs, labels = (torch.cat(values).to(device) for values in zip(*encoded, strict=True))
        rank, world_size = accelerator.process_index, accelerator.num_processes
        sampler = WeightedSampler(weights, config.batch_size, config.seed, rank, world_size, device=device)
        return cls(sampler, lambda drawn: (inputs[drawn], labels[drawn]))


class Samples(Protocol):
    """Parameters of one or several runs, a tenth of which is held out."""

    @property
    def stores(self) -> Sequence[TripleStore]:
        """The runs."""

    @property
    def config(self) -> FitConfig:
        """How AutoS is fitted to them."""

    def batches(self, accelerator: Accelerator) -> SampleLoader:
        """This process's part of the nine tenths that are fitted to.

        Raises:
            UserError: see `TripleLoader` and `WeightedSampler`.
        """

    def validation(self, run: int, part: Part = "held-out") -> Sample:
        """Parameters of one run to measure a fit by: held out, or `all` of a run that the fit has not seen."""

    def tabulation(self) -> Sequence[Sample]:
        """Held-out parameters of all runs to make and measure a surface by."""

    def only(self, runs: Sequence[int]) -> Self:
        """The samples of these runs alone."""
