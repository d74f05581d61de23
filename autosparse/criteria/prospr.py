"""ProsPr: the effect of a mask on the loss after a few steps of training (Alizadeh et al. 2022, arXiv 2202.08132)."""

import contextlib
from itertools import cycle, islice
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

from autosparse.criteria.base import Scoring
from autosparse.criteria.failures import naming_layers
from autosparse.criteria.flow import Named
from autosparse.criteria.gradient import check_derivative, scoring_mode, total_loss, uncompiled, with_tensors
from autosparse.criteria.repeatable import copied
from autosparse.distributed import gather, rank_and_size
from autosparse.errors import UserError
from autosparse.pruning import Mask
from autosparse.pruning.prunable import canonical, unwrapped

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
    layout, model = mask.layout, unwrapped(model)
    theta = {name: weight.detach() for name, weight in layout.weights(model).items()}
    kept = layout.unflatten(mask.kept)
    pruned = {id(weight) for weight in layout.weights(model).values()}
    ones = {name: torch.ones_like(weight).requires_grad_() for name, weight in theta.items()}

    def gradient(values: Named, batch: Any, by: Named, *, exact: bool = False, last: bool = False) -> Named:
        """Return the gradient of the loss at these values, by those of `by` that it depends on."""
        # Activations that are computed again cannot be differentiated twice.
        guard = disable_saved_tensors_hooks(_RECOMPUTED) if exact else contextlib.nullcontext()
        with guard, naming_layers(_PROBLEM, model), with_tensors(model, values):
            loss, count = total_loss(scoring.loss, model, batch)
            if not count:
                raise UserError("the meta-gradient needs a target that counts in every batch; one has none")
            create_graph = exact and not last
            with naming_layers(_PROBLEM):
                found = torch.autograd.grad(
                    loss / count, list(by.values()), create_graph=create_graph, allow_unused=True
                )
        return {name: value for name, value in zip(by, found, strict=True) if value is not None}

    batches = [send_to_device(batch, mask.kept.device) for batch in _first(scoring, steps + 1)]
    with scoring_mode(model, batch_norm), uncompiled(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        weights = {name: theta[name] * ones[name] for name in theta}
        others = {
            canonical(name): parameter.detach().clone().requires_grad_()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and id(parameter) not in pruned
        }
        values, velocity = weights | others, Named()
        for batch in batches[:-1]:
            for name, part in gradient(values, batch, values, exact=not first_order).items():
                step = part * kept[name] if name in kept else part
                velocity[name] = momentum * velocity[name] + step if name in velocity else step
            values = {
                name: value - learning_rate * velocity[name] if name in velocity else value
                for name, value in values.items()
            }
            if first_order:
                values = {name: value.detach().requires_grad_() for name, value in values.items()}
        if first_order:
            result = gradient(values, batches[-1], values)
            result = {name: result[name] * theta[name] for name in theta if name in result}
        else:
            result = gradient(values, batches[-1], ones, exact=True, last=True)
    if not result:
        raise UserError(f"{_PROBLEM}: the loss depends on no prunable weight")
    scores = layout.flatten({name: result.get(name, torch.zeros_like(theta[name])) for name in theta}).abs()
    check_derivative(scores, "meta-gradient", layout, scoring)
    return scores.float()


def _first(scoring: Scoring, count: int) -> list[Any]:
    """Return the first batches of all processes, each one's in turn; from the first again if there are fewer."""
    rank, world = rank_and_size()
    first = islice(scoring.batches, count)
    numbered = [(step * world + rank, copied(send_to_device(batch, "cpu"))) for step, batch in enumerate(first)]
    batches = sorted((entry for part in gather(numbered) for entry in part), key=lambda entry: entry[0])
    if not batches:
        raise UserError("the meta-gradient needs at least one batch; none was given")
    return [batch for _, batch in islice(cycle(batches), count)]
