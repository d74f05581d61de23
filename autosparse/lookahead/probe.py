"""The probe: columns of each prunable parameter, measured in the first steps of a training run; criteria of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from autosparse.config import Probed
from autosparse.criteria.base import Scoring, check_finite
from autosparse.criteria.gradient import restoring_model
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from autosparse.training import Callback
from autosparse.training.dynamic import GradualMagnitude

LACKING = (
    "{} looks ahead: it trains the model for some steps in each round; give steps_per_round= and optimizer=, "
    "as in optimizer=lambda parameters: torch.optim.AdamW(parameters, 1e-3)"
)
"""Error of a criterion, by its name, that has nothing to train with."""


class Probe(Callback):
    """Measures the first K steps of a training run that starts from the initial weights under a mask.

    A column has one float32 per parameter; later steps cost nothing:

    - `probe-gradient`: ḡ, the mean over the steps of the gradient of the batch's mean loss.
    - `probe-theta`: θ_K, the weight after the last of the steps.
    - `probe-rms`: the root of the mean over the steps of the square of that gradient.

    Args:
        layout: the prunable parameters.
        steps: number of steps, K.
        columns: names of the columns to measure.
        device: device of the model.

    Raises:
        UserError: there are no steps or no columns.
    """

    def __init__(
        self, layout: Layout, steps: int, columns: Sequence[Probed], device: torch.device | str = "cpu"
    ) -> None:
        if steps < 1:
            raise UserError(f"a probe needs at least one step, got {steps}")
        if not columns:
            raise UserError("a probe measures at least one column")
        self.layout, self.steps = layout, steps
        self._values: dict[str, Tensor] = {
            name: torch.zeros(layout.size, dtype=torch.float32, device=device) for name in columns
        }
        self._views = {name: [*layout.unflatten(values).values()] for name, values in self._values.items()}
        self._weights: list[nn.Parameter] = []

    @property
    def columns(self) -> dict[str, Tensor]:
        """Columns after all steps, float32 (P,) by name."""
        return self._values

    def start(self, model: nn.Module, mask: Mask) -> Mask:
        self._weights = [*self.layout.weights(model).values()]
        return mask

    @torch.no_grad()
    def gradients(self, step: int, model: nn.Module) -> None:
        if step > self.steps:
            return
        # None: the gradient of a frozen weight, or of one that the loss does not depend on.
        used = [(i, weight.grad) for i, weight in enumerate(self._weights) if weight.grad is not None]
        gradients = [gradient for _, gradient in used]
        for column in {"probe-gradient", "probe-rms"} & self._views.keys() if used else ():
            views = [self._views[column][i] for i, _ in used]
            if column == "probe-gradient":
                torch._foreach_add_(views, gradients)
            else:
                torch._foreach_addcmul_(views, gradients, gradients)
            if step == self.steps:
                self._values[column] /= self.steps
                if column == "probe-rms":
                    self._values[column].sqrt_()

    @torch.no_grad()
    def stepped(self, step: int, model: nn.Module, mask: Mask, optimizer: torch.optim.Optimizer) -> Mask:
        if step == self.steps:
            for view, weight in zip(self._views.get("probe-theta", ()), self._weights, strict=False):
                view.copy_(weight)
        return mask

    def state_dict(self) -> dict[str, Any]:
        return dict(self._values)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, values in self._values.items():
            values.copy_(state[name])


class Learner(Protocol):
    """Trains a model a few steps ahead; `Scoring` holds it.

    Attributes:
        steps: number of steps, K.
    """

    steps: int

    def learn(self, model: nn.Module, mask: Mask, callback: Callback) -> None:
        """Train the model in place under the mask for K steps, the same ones for the same mask.

        Args:
            model: model at its initial weights, the mask applied.
            mask: the weights that are not removed.
            callback: callback of each step, such as a probe of K steps; it may change the mask.
        """


def look_ahead(
    criterion: str, model: nn.Module, mask: Mask, scoring: Scoring, columns: Sequence[Probed]
) -> dict[str, Tensor]:
    """Train ahead and return the columns of a probe, float32 (P,) by name; the model is restored bit for bit.

    Args:
        criterion: name of the criterion in errors.
        model: model at its initial weights, the mask applied.
        mask: the weights that are not removed.
        scoring: batches, and the learner that trains.
        columns: names of the columns to measure.

    Raises:
        UserError: there is no learner, or see `autosparse.training.train`.
    """
    with training_ahead(criterion, model, scoring) as learner:
        probe = Probe(mask.layout, learner.steps, columns, mask.kept.device)
        learner.learn(model, mask, probe)
    if wrong := [name for name, values in probe.columns.items() if not values.isfinite().all()]:
        check_finite(scoring)
        raise UserError(f"{criterion}: after {learner.steps} steps {wrong[0]} is not finite; lower the learning rate")
    return probe.columns


@contextmanager
def training_ahead(criterion: str, model: nn.Module, scoring: Scoring) -> Iterator[Learner]:
    """Yield the learner that trains the model within the block; the model is restored bit for bit at its end."""
    learner: Learner | None = scoring.learner
    if learner is None:
        raise UserError(LACKING.format(criterion))
    with restoring_model(model):
        yield learner


def short_irp(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
    """Return |θ_K|, the weight after the K steps of a probe.

    In rounds it is iterative rewind pruning cut short. In one round of a full training it is the one-shot lottery
    ticket (Frankle and Carbin 2019).
    """
    return look_ahead("short-irp", model, mask, scoring, ["probe-theta"])["probe-theta"].abs_()


def snip_probe(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
    """Return |θ0 ⊙ ḡ|: SNIP (Lee et al. 2019) with the mean gradient along a probe, not the one at its start."""
    theta = mask.layout.flatten(mask.layout.weights(model))
    return look_ahead("snip-probe", model, mask, scoring, ["probe-gradient"])["probe-gradient"].mul_(theta).abs_()


@dataclass(frozen=True)
class GMPTicket:
    """The mask in which gradual magnitude pruning (Zhu and Gupta 2017) ends after K steps, for the initial weights."""

    def choose(self, model: nn.Module, mask: Mask, scoring: Scoring, k: int) -> Mask:
        """Return a mask of `k` of the weights that `mask` keeps; see `criteria.select`."""
        with training_ahead("gmp-ticket", model, scoring) as learner:
            pruning = GradualMagnitude(k, learner.steps)
            learner.learn(model, mask, pruning)
        return pruning.mask
