"""One training of several that are trained together: what it has of its own, where it stands, how it is saved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from autosparse.cluster.interruption import InterruptedAtStep
from autosparse.data import Data
from autosparse.errors import UserError
from autosparse.pruning import Mask
from autosparse.training.callback import Callback
from autosparse.training.checkpoint import Checkpoint
from autosparse.training.epoch import end_epoch
from autosparse.training.loop import Epoch, measured
from autosparse.training.recipe import Recipe
from autosparse.training.step import make_optimizer


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """What one training has of its own; its fields are arguments of `autosparse.training.train`.

    In a pack, a callback only looks on: its `stepped` returns the mask that it was given.
    """

    model: nn.Module
    mask: Mask
    seed: int = 0
    resume: Checkpoint | None = None
    progress: Callable[[int], object] = lambda steps: None
    after_epoch: Callable[[Epoch], object] = lambda epoch: None
    callback: Callback | None = None


class Member:
    """One of the trainings: where it stands."""

    def __init__(self, training: Training, recipe: Recipe, device: torch.device) -> None:
        self.training, self.recipe, self.model = training, recipe, training.model
        self.callback = training.callback or Callback()
        training.mask.apply_(self.model)
        self.optimizer = make_optimizer(recipe, self.model)
        resume = training.resume
        position = (resume.load(self.model, self.optimizer) if resume else None) or {"epoch": 0, "step": 0}
        if "callback" in position:
            self.callback.load_state_dict(position["callback"])
        self.mask = self.callback.start(self.model, training.mask)
        self.epoch: int = position["epoch"]
        self.step: int = position["step"]
        self.history: list[Epoch] = position.get("history", [])
        self.total = torch.full((), position.get("total", 0.0), dtype=torch.float32, device=device)
        self.error: UserError | None = None

    def end_epoch(self, steps: int, data: Data, accelerator: Accelerator) -> None:
        """Measure what the epoch has led to, or note that the loss is no number."""
        try:
            loss = end_epoch(self.model, self.total, steps, self.epoch, accelerator)
            self.history.append(measured(self.model, data, accelerator, self.recipe, self.epoch, loss))
        except UserError as error:
            self.error = error
            return
        self.epoch, self.step = self.epoch + 1, 0
        views = self.detach_from_stack()
        self.training.after_epoch(self.history[-1])
        for tensor, view in zip(tensors(self.model), views, strict=True):
            tensor.data = view

    def detach_from_stack(self) -> list[Tensor]:
        """Give the model memory of its own, which safetensors insists on; returns the views of the stack."""
        views = [tensor.detach() for tensor in tensors(self.model)]
        for tensor in tensors(self.model):
            tensor.data = tensor.detach().clone()
        return views


def tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def due(members: Sequence[Member]) -> bool:
    """Whether one of them should be saved now; each is asked, and remembers whether it is to stop."""
    due = [member.training.resume.due() for member in members if member.training.resume]
    return any(due)


def save(members: Sequence[Member]) -> None:
    """Save all, which stand at the same step, before any of them says that it was asked to stop there."""
    stopped: InterruptedAtStep | None = None
    for member in members:
        position = {"epoch": member.epoch, "step": member.step, "history": member.history, "total": member.total.item()}
        try:
            if member.training.resume:
                position["callback"] = member.callback.state_dict()
                member.training.resume.save(member.model, member.optimizer, position)
        except InterruptedAtStep as stop:
            stopped = stop
    if stopped:
        raise stopped
