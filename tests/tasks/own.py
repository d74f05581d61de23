"""A task of a user's, as a file: ragged batches, random numbers in samples."""

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from autosparse import Task
from autosparse.training import Recipe


class Sums(Dataset[tuple[Tensor, Tensor]]):
    """Vectors of random length whose sum is asked for; noise from all three generators."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= self.count:
            raise IndexError(index)
        values = torch.linspace(0, index % 7, 3 + index % 4)
        noise = torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002
        return values + 0.1 * noise.float(), values.sum()


class Pooled(nn.Module):
    """The mean over positions of a layer's outputs, then another layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(1, width), nn.Linear(width, 1)

    def forward(self, vectors: list[Tensor]) -> Tensor:
        means = [self.first(vector[:, None]).relu().mean(0) for vector in vectors]
        return self.last(torch.stack(means)).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class Own(Task):
    """Sums of ragged vectors."""

    better: ClassVar = "lower"

    width: int = 16
    """Of the hidden layer."""

    @property
    def recipe(self) -> Recipe:
        return Recipe(2, "adamw", 1e-2, batch_size=8)

    def model(self) -> nn.Module:
        return Pooled(self.width)

    def dataset(self, split: str) -> Sums:
        return Sums({"train": 40, "validation": 12, "test": 20}[split])

    def collate(self, samples: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        vectors, targets = zip(*samples, strict=True)
        return {"vectors": list(vectors), "targets": torch.stack(targets)}

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        return nn.functional.mse_loss(model(batch["vectors"]), batch["targets"])

    def metrics(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        squares = (model(batch["vectors"]) - batch["targets"]).square()
        return {"mse": (squares.sum(), torch.tensor(len(squares)))}
