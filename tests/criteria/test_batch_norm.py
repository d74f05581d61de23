"""Criteria by the loss with batch norm by its running statistics, which are fresh before training."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autosparse
from autosparse.config import PRETRAINED
from autosparse.criteria import Scoring, make_criterion
from autosparse.criteria.snip import snip
from autosparse.criteria.table import WITH_BATCH_NORM
from autosparse.errors import UserError
from tests.criteria.quick import scores_or_mask
from tests.models import images


class Written(nn.BatchNorm2d):
    """A batch norm with a mean of 0 and a variance of 1, written out."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (part.view(1, -1, 1, 1) for part in (self.weight, self.bias))
        return x / (1 + self.eps) ** 0.5 * weight + bias


def network(norm: type[nn.BatchNorm2d] = nn.BatchNorm2d) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def scores(name: str, model: nn.Module, batch_norm: str) -> Tensor:
    return scores_or_mask(make_criterion(name, batch_norm=batch_norm), model, Scoring(images()), 700)


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_running_is_a_network_whose_norms_do_nothing_yet(name: str) -> None:
    found = scores(name, network(), "running")
    torch.testing.assert_close(found, scores(name, network(Written), "batch"))
    assert not torch.allclose(found, scores(name, network(), "batch"))


@pytest.mark.parametrize("name", ["synflow", "short-irp", PRETRAINED, snip])
def test_batch_norm_for_a_criterion_without_it_raises(name: object) -> None:
    how: dict[str, Any] = {"steps_per_round": 1, "optimizer": torch.optim.Adam} if name == "short-irp" else {}
    message = "has no batch norm of mode running; snip, " if isinstance(name, str) else "one of your own brings its own"
    with pytest.raises(UserError, match=message) as error:
        autosparse.prune(network(), images(), criterion=name, sparsity=0.5, batch_norm="running", **how)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
