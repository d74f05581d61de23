"""Random: the same chance for every parameter."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autosparse.pruning import Mask
from autosparse.seeds import stream


@dataclass(frozen=True)
class UniformRandom:
    """Scores drawn uniformly from [0, 1), a function of the seed alone. Looks at no batch."""

    seed: int

    def __call__(self, model: nn.Module, mask: Mask, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        generator = torch.Generator().manual_seed(stream("random criterion", self.seed))
        scores = torch.rand(mask.layout.size, dtype=torch.float32, device="cpu", generator=generator)
        return scores.to(mask.kept.device)
