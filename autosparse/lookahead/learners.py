"""Learners train a model a few steps ahead: by a task's recipe, or by an optimizer that the caller makes."""

import itertools
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, send_to_device
from torch import distributed as dist
from torch import nn

from autosparse import tensors
from autosparse.criteria.failures import naming_layers
from autosparse.criteria.loss import Loss, check_loss
from autosparse.errors import UserError
from autosparse.pruning import Mask
from autosparse.seeds import stream
from autosparse.tasks import Data
from autosparse.training import Callback, Checkpoint, Recipe, train

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""The parameters of a model -> a fresh optimizer of them."""
_PROBLEM = "the network cannot be trained ahead"


@dataclass(frozen=True)
class RecipeLearner:
    """The first K steps of a task's recipe, in an order of samples that depends on the seed and the number of weights.

    The results of each callback stay on disk until `forget`, so that a killed run resumes from the last checkpoint of a
    training, and with the results of the training runs before it.

    Attributes:
        data: data of this process.
        recipe: recipe of the training that follows.
        accelerator: accelerator of this process.
        steps: number of steps, K.
        seed: seed of the order of samples, augmentation and dropout.
        folder: folder of the results.
        progress: called with the number of steps since the last call.
        checkpoint_interval: seconds between checkpoints.
    """

    data: Data
    recipe: Recipe
    accelerator: Accelerator
    steps: int
    seed: int
    folder: Path
    progress: Callable[[int], object] = lambda steps: None
    checkpoint_interval: float = 60.0

    def learn(self, model: nn.Module, mask: Mask, callback: Callback) -> None:
        """Train; see `Learner`. An interrupted process stops at a step and resumes there."""
        path = self.folder / f"probe-{mask.count}.safetensors"
        main = self.accelerator.is_main_process
        # The main process looks, for all: on a network file system another process may not see the file yet.
        if broadcast_object_list([main and path.is_file()])[0]:
            try:
                callback.load_state_dict(tensors.load(path)[0])
                callback.start(model, mask)
            except Exception as error:  # safetensors has its own error type
                raise UserError(f"{path} is damaged; delete this file alone and run the same again") from error
            self.progress(self.steps)
            return
        tag = f"probe of {mask.count}"
        checkpoint = Checkpoint(self.folder / "checkpoint.pt", tag, self.checkpoint_interval, write=main)
        train(
            model,
            mask,
            self.data,
            self.recipe,
            self.accelerator,
            seed=stream("probe", self.seed, mask.count) % (1 << 32),
            resume=checkpoint,
            progress=self.progress,
            callback=callback,
            steps=self.steps,
        )
        if main:
            tensors.save(path, callback.state_dict(), {})
        self.accelerator.wait_for_everyone()
        checkpoint.remove()

    def forget(self) -> None:
        """Remove the results, when the mask has been saved."""
        if self.accelerator.is_main_process:
            for path in self.folder.glob("probe-*.safetensors"):
                path.unlink()


@dataclass(frozen=True)
class OptimizerLearner:
    """K steps of an optimizer over batches, again from the first when they end.

    Under `torch.distributed` the gradients of all processes are averaged.

    Attributes:
        optimizer: makes the optimizer of each probe.
        batches: batches that the loss takes.
        loss: (model, batch) -> the mean loss of the batch.
        steps: number of steps, K.
    """

    optimizer: OptimizerFactory
    batches: Iterable[Any]
    loss: Loss
    steps: int

    def learn(self, model: nn.Module, mask: Mask, callback: Callback) -> None:
        """Train in training mode; see `Learner`."""
        with naming_layers(f"{_PROBLEM}: optimizer= fails"):
            optimizer = self.optimizer([*model.parameters()])
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UserError(f"optimizer= makes an optimizer of parameters; it made a {type(optimizer).__name__}")
        model.train()
        mask, step = callback.start(model, mask), 0
        with ExitStack() as held:
            held.enter_context(mask.hold(model, optimizer))
            while step < self.steps:
                before = step
                for step, batch in enumerate(itertools.islice(self.batches, self.steps - before), before + 1):
                    with naming_layers(_PROBLEM, model):
                        check_loss(self.loss(model, send_to_device(batch, mask.kept.device))).backward()
                    _average_gradients(model)
                    callback.gradients(step, model)
                    with naming_layers(f"{_PROBLEM}: a step of the optimizer fails, give another optimizer"):
                        optimizer.step()
                    previous, mask = mask, callback.stepped(step, model, mask, optimizer)
                    if mask is not previous:
                        held.close()
                        held.enter_context(mask.hold(model, optimizer))
                    optimizer.zero_grad()
                if step == before:
                    raise UserError("looking ahead needs at least one batch; none was given")


def _average_gradients(model: nn.Module) -> None:
    if not dist.is_initialized():
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
