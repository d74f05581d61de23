"""Regression on a table: `python launch/irp.py --task examples/tabular_regression.py:Diabetes --iterations 5`."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autosparse import Task
from autosparse.training import Recipe


@dataclass(frozen=True, kw_only=True)
class Diabetes(Task):
    """A perceptron that predicts the progression of diabetes in 442 patients from ten measurements."""

    better: ClassVar = "lower"

    width: int = 128
    """Width of the two hidden layers."""

    @property
    def recipe(self) -> Recipe:
        return Recipe(40, "adamw", 1e-3, batch_size=32, weight_decay=0.01, cosine=True)

    def model(self) -> nn.Module:
        hidden = nn.Linear(10, self.width), nn.ReLU(), nn.Linear(self.width, self.width), nn.ReLU()
        return nn.Sequential(*hidden, nn.Linear(self.width, 1))

    def dataset(self, split: str) -> TensorDataset:
        inputs, targets = load_diabetes(return_X_y=True)
        x = torch.tensor(inputs, dtype=torch.float32)
        y = torch.tensor(targets, dtype=torch.float32)[:, None]
        x, y = x / x[:320].std(0), (y - y[:320].mean()) / y[:320].std()
        span = {"train": slice(0, 320), "validation": slice(320, 360), "test": slice(360, None)}[split]
        return TensorDataset(x[span], y[span])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        return nn.functional.mse_loss(model(inputs), targets)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        inputs, targets = batch
        squares = (model(inputs) - targets).square()
        return {"squared error": (squares.sum(), torch.tensor(len(targets)))}
