"""Random: the same chance for every parameter."""

import torch
from torch import Tensor, nn

from autosparse.criteria.base import Scoring
from autosparse.pruning import Mask
from autosparse.seeds import stream


def random(model: nn.Module, mask: Mask, scoring: Scoring, *, seed: int = 0) -> Tensor:
    """Return scores drawn uniformly from [0, 1), a function of the seed alone. Looks at no batch."""
    generator = torch.Generator().manual_seed(stream("random criterion", seed))
    scores = torch.rand(mask.layout.size, dtype=torch.float32, device="cpu", generator=generator)
    return scores.to(mask.kept.device)
