"""A task with a tiny GPT, which continues sequences."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from autosparse import Task
from autosparse.tasks.base import Split
from autosparse.training import Recipe
from tests.models import GPT

SAMPLES: dict[Split, int] = {"train": 1280, "validation": 32, "test": 64}


@dataclass(frozen=True, kw_only=True)
class Language(Task):
    """Sequences in which each token is the one before and a step that the sequence keeps, modulo 30."""

    better: ClassVar[Literal["higher", "lower"]] = "lower"

    @property
    def recipe(self) -> Recipe:
        return Recipe(1, "adamw", 3e-3, batch_size=32)

    def model(self) -> nn.Module:
        return GPT()

    def dataset(self, split: Split) -> TensorDataset:
        draw = torch.Generator().manual_seed(len(split))
        first, step = (torch.randint(30, (SAMPLES[split], 1), generator=draw) for _ in range(2))
        ids = (first + step * torch.arange(13)) % 30
        return TensorDataset(ids[:, :-1], ids[:, 1:])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        scores, targets = model(batch[0]).flatten(0, 1), batch[1].flatten()
        return {"loss": (F.cross_entropy(scores, targets, reduction="sum"), torch.tensor(targets.numel()))}
