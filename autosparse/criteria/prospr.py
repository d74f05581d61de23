"""ProsPr: what a mask does to the loss after a few steps of training (Alizadeh et al. 2022, arXiv 2202.08132)."""

import contextlib
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from autosparse.criteria.base import Batches
from autosparse.criteria.failures import in_one_line, naming_layers
from autosparse.criteria.flow import uncompiled
from autosparse.criteria.gradient import scoring_mode, total_loss
from autosparse.criteria.loss import Loss, loss_of
from autosparse.criteria.reading import check_finite, copied
from autosparse.distributed import gather, rank_and_size
from autosparse.errors import UserError
from autosparse.pruning import Mask
from autosparse.pruning.prunable import canonical, unwrapped

Named = dict[str, Tensor]
_PROBLEM = "the meta-gradient of this network cannot be taken"
_RECOMPUTED = "activations that are computed again cannot be differentiated twice; prospr-first-order takes them"


@dataclass(frozen=True)
class ProsPr:
    """|∂L(w_M)/∂c| at c = 1: w_0 = θ ⊙ c, then M steps of SGD on M batches, and L the mean loss of one more.

    All parameters that are trained take the steps, biases and norms too; removed weights stay zero. The exact
    derivative goes through the steps, and holds the activations of all of them; the first-order one takes the steps as
    they are, so that ∂w_M/∂c is θ: |θ ⊙ ∂L/∂w_M|.

    Ours: the authors' code (mil-ad/prospr) cuts the exact derivative at the first momentum, ours does not; without
    momentum that makes no difference. It also runs in training mode, dropout included, ours without dropout.

    Looks at the first M + 1 batches, from the first again if there are fewer, whole batches dealt to the processes in
    turn; any loss of any batches. Costs M + 1 forward and backward passes, and exact a backward pass through them all,
    with attention computed by its formula, which can be differentiated twice.

    Attributes:
        steps: M.
        learning_rate, momentum: of the steps; these defaults and M are those of the authors' command line, which takes
            the same batch for all steps unless told otherwise; the call in their README has 0.5 and 0.9, and a batch
            for each step as ours.
        first_order: whether the derivative stops at the steps.
        batch_norm: see `criteria.gradient.scoring_mode`.
    """

    steps: int = 3
    learning_rate: float = 0.1
    momentum: float = 0.0
    first_order: bool = False
    batch_norm: str = "batch"

    def __call__(self, model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
        """Scores float32 (P,).

        Raises:
            UserError: no batches, or a network, batch or loss that has no such derivative (names the layer).
        """
        layout, inner = mask.layout, unwrapped(model)
        theta = {name: weight.detach() for name, weight in layout.weights(model).items()}
        kept = layout.unflatten(mask.kept)
        pruned = {id(weight) for weight in layout.weights(model).values()}
        ones = {name: torch.ones_like(weight).requires_grad_() for name, weight in theta.items()}
        run = _Loss(inner, loss_of(batches))
        given = [send_to_device(batch, mask.kept.device) for batch in _first(batches, self.steps + 1)]
        with scoring_mode(inner, self.batch_norm), uncompiled(inner), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            weights = {name: theta[name] * ones[name] for name in theta}
            others = {
                canonical(name): parameter.detach().clone().requires_grad_()
                for name, parameter in inner.named_parameters()
                if parameter.requires_grad and id(parameter) not in pruned
            }
            values, speed = weights | others, Named()
            for batch in given[:-1]:
                gradients = run.gradient(values, batch, values, exact=not self.first_order)
                for name, gradient in gradients.items():
                    step = gradient * kept[name] if name in kept else gradient
                    speed[name] = self.momentum * speed[name] + step if name in speed else step
                values = {
                    name: value - self.learning_rate * speed[name] if name in speed else value
                    for name, value in values.items()
                }
                if self.first_order:
                    values = {name: value.detach().requires_grad_() for name, value in values.items()}
            if self.first_order:
                found = run.gradient(values, given[-1], values)
                found = {name: found[name] * theta[name] for name in theta if name in found}
            else:
                found = run.gradient(values, given[-1], ones, exact=True, last=True)
        if not found:
            raise UserError(f"{_PROBLEM}: the loss depends on no prunable weight")
        scores = layout.flatten({name: found.get(name, torch.zeros_like(theta[name])) for name in theta}).abs()
        if not scores.isfinite().all():
            check_finite(batches)
            layer = layout.layer_at(int((~scores.isfinite()).nonzero()[0]))
            raise UserError(
                f"the meta-gradient is not finite, first in layer {layer.name}; a lower learning rate helps"
            )
        return scores.float()


class _Loss(nn.Module):
    """The mean loss of a batch and its gradient: a module, for `functional_call` to reach the network below."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self._names = [name for name, _ in model.named_parameters(remove_duplicate=False)]

    def gradient(self, values: Named, batch: Any, by: Named, *, exact: bool = False, last: bool = False) -> Named:
        """The gradient at these values of the parameters, by those of `by` that the loss depends on.

        Args:
            values: by canonical name; of the others, the model's own.
            batch: on the model's device.
            by: what to differentiate by, of which `values` may be made.
            exact: whether it is to be differentiated again, or has been before: nothing may be computed again then.
            last: whether it is not to be.
        """
        given = {f"model.{name}": values[canonical(name)] for name in self._names if canonical(name) in values}
        kept = disable_saved_tensors_hooks(_RECOMPUTED) if exact else contextlib.nullcontext()
        with kept, naming_layers(_PROBLEM, self.model):
            found: Named = functional_call(self, given, (batch, by, exact and not last))
        return found

    def forward(self, batch: Any, by: Named, create_graph: bool) -> Named:
        # while the values are in place: activations may be computed again
        total, count = total_loss(self.loss, self.model, batch)
        if not count:
            raise UserError("the meta-gradient needs a target that counts in every batch; one has none")
        with in_one_line(_PROBLEM):
            found = torch.autograd.grad(total / count, list(by.values()), create_graph=create_graph, allow_unused=True)
        return {name: each for name, each in zip(by, found, strict=True) if each is not None}


def _first(batches: Batches, count: int) -> list[Any]:
    """The first batches of all processes, each one's in turn; from the first again where there are fewer.

    Raises:
        UserError: there is none.
    """
    rank, world = rank_and_size()
    own = [
        (step * world + rank, copied(send_to_device(each, "cpu"))) for step, each in enumerate(islice(batches, count))
    ]
    found = sorted((each for part in gather(own) for each in part), key=lambda each: each[0])
    if not found:
        raise UserError("the meta-gradient needs at least one batch; none was given")
    return [batch for _, batch in islice(cycle(found), count)]
