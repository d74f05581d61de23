"""The steps of several trainings at once: parameters and buffers stacked, each step one of them all."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.utils.data import default_collate

from autosparse.errors import UserError
from autosparse.tasks import Data
from autosparse.tasks.recipe import UNPACKED, Recipe
from autosparse.training.members import Member, due, save
from autosparse.training.step import Held, autocast, bits_of, number, set_rate, zero_removed


class Stack:
    """Members that stand at the same step, their parameters and buffers stacked (S, ...).

    Those of their models are views of the stacked ones from here on.
    """

    def __init__(self, members: Sequence[Member], data: Data, recipe: Recipe, device: torch.device) -> None:
        self.members, self._data, self._recipe, self._device = members, data, recipe, device
        models = [member.model.train() for member in members]
        self._model = models[0]
        self._parameters, self._buffers = stack_module_state(models)
        stacked = self._parameters | self._buffers
        for k, model in enumerate(models):
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                tensor.data = stacked[name].detach()[k]
        by_id = {id(own): self._parameters[name] for name, own in self._model.named_parameters()}
        first = members[0].optimizer
        groups = [{**group, "params": [by_id[id(own)] for own in group["params"]]} for group in first.param_groups]
        self._optimizer = type(first)(groups)  # type: ignore[call-arg]  # its defaults are in the groups
        for name, tensor in self._parameters.items():
            states = [member.optimizer.state.get(member.model.get_parameter(name), {}) for member in members]
            for key in states[0]:  # the number of steps is that of all
                values = [state[key] for state in states]
                self._optimizer.state[tensor][key] = values[0].clone() if key == "step" else torch.stack(values)
        self._held = self._bits(by_id)
        zero_removed(self._held)
        self._losses = vmap(self._loss, randomness="error")

    def train(self, epoch: int, start: int, stop: int) -> None:
        """The steps of an epoch from `start` to before `stop`, all members at once."""
        data, recipe = self._data, self._recipe
        batches = [
            data.training(recipe.batch_size, member.training.seed, recipe.augment, recipe.accumulate)
            for member in self.members
        ]
        steps, pieces = len(batches[0]), zip(*(each.epoch(epoch, start) for each in batches), strict=True)
        totals = torch.stack([member.total for member in self.members])
        for member, total in zip(self.members, totals, strict=True):
            member.total = total  # a view
        self._model.train()
        set_rate(self._optimizer, recipe.rate(epoch))
        for step in range(start, stop):
            if recipe.by_step:
                set_rate(self._optimizer, recipe.rate(epoch + (step + 1) / steps))
            for _ in range(recipe.accumulate):
                losses = self._forward(next(pieces)) / recipe.accumulate
                losses.sum().backward()
                totals += losses.detach()
            self._step(epoch * steps + step + 1)
            for member in self.members:
                member.step = step + 1
                member.training.progress(1)
            if due(self.members):
                self._give_back()
                save(self.members)
        self._give_back()

    def _forward(self, batches: Sequence[Any]) -> Tensor:
        """The loss of each member, (S,)."""
        try:
            with autocast(self._device, self._recipe):
                return self._losses(self._parameters, self._buffers, default_collate(list(batches)))
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, UserError | torch.OutOfMemoryError):
                raise
            why = " ".join(str(error).split())
            raise UserError(f"this network, its loss or its batches cannot be packed; {UNPACKED}: {why}") from error

    def _loss(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: Any) -> Tensor:
        def model(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self._model, (parameters, buffers), args, kwargs)

        return number(self._data.loss(model, batch))  # type: ignore[arg-type]  # of a model that is only called

    def _step(self, done: int) -> None:
        """The optimizer's step number `done`, from the gradients that are there."""
        watching = [k for k, member in enumerate(self.members) if member.training.callback]
        for k in watching:
            member = self.members[k]
            for name, own in member.model.named_parameters():
                gradient = self._parameters[name].grad
                own.grad = None if gradient is None else gradient[k]
            member.callback.gradients(done, member.model)
            member.model.zero_grad()
        if self._recipe.clip:
            self._clip()
        self._optimizer.step()
        self._optimizer.zero_grad()
        zero_removed(self._held)
        for k in watching:
            member = self.members[k]
            if member.callback.stepped(done, member.model, member.mask, member.optimizer) is not member.mask:
                raise ValueError("a callback that changes the mask cannot be packed")

    def _give_back(self) -> None:
        """Let the members' own optimizers have what the one of the stack remembers."""
        for k, member in enumerate(self.members):
            for name, own in member.model.named_parameters():
                state = self._optimizer.state.get(self._parameters[name], {})
                member.optimizer.state[own] = {
                    key: value if key == "step" else value[k] for key, value in state.items()
                }

    @torch.no_grad()
    def _clip(self) -> None:
        """As `torch.nn.utils.clip_grad_norm_`, of each member by itself; removed weights do not count."""
        zero_removed([(weight.grad, bits) for weight, bits in self._held if weight.grad is not None])
        gradients = [each.grad for each in self._parameters.values() if each.grad is not None]
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        shares = (self._recipe.clip / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient *= shares.view(-1, *[1] * (gradient.dim() - 1))

    def _bits(self, by_id: dict[int, Tensor]) -> Held:
        """The stacked weights, and what of them is held."""
        kept = [member.mask.layout.unflatten(member.mask.kept) for member in self.members]
        weights = self.members[0].mask.layout.weights(self._model)
        whole = {name: torch.stack([each[name] for each in kept]) for name in weights}
        return [
            (by_id[id(weight)], bits_of(by_id[id(weight)], whole[name]))
            for name, weight in weights.items()
            if not whole[name].all()
        ]
