"""ProsPr: the effect of a mask on the loss after a few steps of training (Alizadeh et al. 2022, arXiv 2202.08132)."""

import contextlib
from itertools import cycle, islice
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from autosparse.criteria.base import Scoring, check_finite
from autosparse.criteria.failures import in_one_line, naming_layers
from autosparse.criteria.flow import uncompiled
from autosparse.criteria.gradient import scoring_mode, total_loss
from autosparse.criteria.loss import Loss
from autosparse.criteria.repeatable import copied
from autosparse.distributed import gather, rank_and_size
from autosparse.errors import UserError
from autosparse.pruning import Mask
from autosparse.pruning.prunable import canonical, unwrapped

Named = dict[str, Tensor]
_PROBLEM = "the meta-gradient of this network cannot be taken"
_RECOMPUTED = "activations that are computed again cannot be differentiated twice; prospr-first-order takes them"


def prospr(
    model: nn.Module,
    mask: Mask,
    scoring: Scoring,
    *,
    steps: int = 3,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    first_order: bool = False,
    batch_norm: str = "batch",
) -> Tensor:
    """Return |∂L(w_M)/∂c| at c = 1: w_0 = θ ⊙ c, then M steps of SGD on M batches, and L the mean loss of one more.

    All trained parameters take the steps, biases and norms too; removed weights stay zero. The exact derivative goes
    through the steps, and holds the activations of all of them; the first-order one takes the steps as constant, so
    that ∂w_M/∂c is θ: |θ ⊙ ∂L/∂w_M|.

    Ours: the authors' code (mil-ad/prospr) cuts the exact derivative at the first momentum, ours does not; without
    momentum that makes no difference. It also runs in training mode, dropout included, ours without dropout.

    Looks at the first M + 1 batches, from the first again if there are fewer, whole batches dealt to the processes in
    turn; any loss of any batches. Costs M + 1 forward and backward passes, and exact a backward pass through them all,
    with attention computed by its formula, which can be differentiated twice.

    Args:
        model: model with `mask` applied; left unchanged.
        mask: the weights to choose from.
        scoring: batches and loss.
        steps: number of steps, M.
        learning_rate: learning rate of the steps. It, M and the momentum default to the values of the authors' command
            line, which takes one batch for all steps; the call in their README has 0.5 and 0.9, and a batch per step.
        momentum: momentum of the steps.
        first_order: whether the derivative stops at the steps.
        batch_norm: mode of batch norm, see `criteria.gradient.scoring_mode`.
    """
    layout, inner = mask.layout, unwrapped(model)
    theta = {name: weight.detach() for name, weight in layout.weights(model).items()}
    kept = layout.unflatten(mask.kept)
    pruned = {id(weight) for weight in layout.weights(model).values()}
    ones = {name: torch.ones_like(weight).requires_grad_() for name, weight in theta.items()}
    run = _LossGradient(inner, scoring.loss)
    batches = [send_to_device(batch, mask.kept.device) for batch in _first(scoring, steps + 1)]
    with scoring_mode(inner, batch_norm), uncompiled(inner), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        weights = {name: theta[name] * ones[name] for name in theta}
        others = {
            canonical(name): parameter.detach().clone().requires_grad_()
            for name, parameter in inner.named_parameters()
            if parameter.requires_grad and id(parameter) not in pruned
        }
        values, velocity = weights | others, Named()
        for batch in batches[:-1]:
            for name, gradient in run.gradient(values, batch, values, exact=not first_order).items():
                step = gradient * kept[name] if name in kept else gradient
                velocity[name] = momentum * velocity[name] + step if name in velocity else step
            values = {
                name: value - learning_rate * velocity[name] if name in velocity else value
                for name, value in values.items()
            }
            if first_order:
                values = {name: value.detach().requires_grad_() for name, value in values.items()}
        if first_order:
            result = run.gradient(values, batches[-1], values)
            result = {name: result[name] * theta[name] for name in theta if name in result}
        else:
            result = run.gradient(values, batches[-1], ones, exact=True, last=True)
    if not result:
        raise UserError(f"{_PROBLEM}: the loss depends on no prunable weight")
    scores = layout.flatten({name: result.get(name, torch.zeros_like(theta[name])) for name in theta}).abs()
    if not scores.isfinite().all():
        check_finite(scoring)
        layer = layout.layer_at(int((~scores.isfinite()).nonzero()[0]))
        raise UserError(f"the meta-gradient is not finite, first in layer {layer.name}; a lower learning rate helps")
    return scores.float()


class _LossGradient(nn.Module):
    """The mean loss of a batch and its gradient, as one module that `functional_call` can run."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self._names = [name for name, _ in model.named_parameters(remove_duplicate=False)]

    def gradient(self, values: Named, batch: Any, by: Named, *, exact: bool = False, last: bool = False) -> Named:
        """Return the gradient at these values of the parameters, by those of `by` that the loss depends on.

        Args:
            values: parameters by canonical name; the others are the model's own.
            batch: batch on the model's device.
            by: tensors to differentiate by, from which `values` may be computed.
            exact: whether it will be or was differentiated twice: no activation may be recomputed then.
            last: whether it is not differentiated again.
        """
        parameters = {f"model.{name}": values[canonical(name)] for name in self._names if canonical(name) in values}
        guard = disable_saved_tensors_hooks(_RECOMPUTED) if exact else contextlib.nullcontext()
        with guard, naming_layers(_PROBLEM, self.model):
            gradients: Named = functional_call(self, parameters, (batch, by, exact and not last))
        return gradients

    def forward(self, batch: Any, by: Named, create_graph: bool) -> Named:
        # The gradient is taken while the values are in place, since activations may be recomputed.
        total, count = total_loss(self.loss, self.model, batch)
        if not count:
            raise UserError("the meta-gradient needs a target that counts in every batch; one has none")
        with in_one_line(_PROBLEM):
            values = torch.autograd.grad(total / count, list(by.values()), create_graph=create_graph, allow_unused=True)
        return {name: value for name, value in zip(by, values, strict=True) if value is not None}


def _first(scoring: Scoring, count: int) -> list[Any]:
    """Return the first batches of all processes, each one's in turn; from the first again if there are fewer."""
    rank, world = rank_and_size()
    first = islice(scoring.batches, count)
    numbered = [(step * world + rank, copied(send_to_device(batch, "cpu"))) for step, batch in enumerate(first)]
    batches = sorted((entry for part in gather(numbered) for entry in part), key=lambda entry: entry[0])
    if not batches:
        raise UserError("the meta-gradient needs at least one batch; none was given")
    return [batch for _, batch in islice(cycle(batches), count)]
