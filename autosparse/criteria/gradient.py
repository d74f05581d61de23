"""The gradient of the mean loss over a set of batches: the feature of AutoS and the basis of SNIP."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from autosparse.criteria.base import Scoring, check_finite
from autosparse.criteria.failures import naming_layers
from autosparse.criteria.loss import CrossEntropy, Loss, batch_size, check_loss
from autosparse.distributed import all_reduce
from autosparse.errors import UserError, unknown
from autosparse.pruning import Layout
from autosparse.pruning.prunable import canonical, unwrapped

BATCH_NORM_MODES = ("batch", "running")
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@contextlib.contextmanager
def scoring_mode(model: nn.Module, batch_norm: str = "batch") -> Iterator[None]:
    """Set evaluation mode (no dropout), with batch normalization by each batch's own statistics; restore all after.

    The running statistics are neither used nor changed. `batch_norm="running"` uses them instead: with fresh ones the
    layer is near the identity (the paper's code).
    """
    if batch_norm not in BATCH_NORM_MODES:
        raise unknown("batch-norm mode", batch_norm, BATCH_NORM_MODES)
    with restoring_modules(model), _differentiable_in_evaluation(model):
        model.eval()
        for norm in model.modules():
            if batch_norm == "batch" and isinstance(norm, _BATCH_NORMS):
                norm.training, norm.track_running_stats = True, False
        yield


@contextlib.contextmanager
def restoring_weights(weights: Iterable[nn.Parameter]) -> Iterator[Callable[[], None]]:
    """Restore the values of weights bit for bit when the block ends; yield a function that restores them earlier."""
    before = [(weight, weight.detach().clone()) for weight in weights]

    @torch.no_grad()
    def restore() -> None:
        for weight, value in before:
            weight.copy_(value)

    try:
        yield restore
    finally:
        restore()


@contextlib.contextmanager
def restoring_modules(model: nn.Module) -> Iterator[None]:
    """Restore buffers, attributes and training mode of all modules when the block ends, also what it rebinds.

    Parameters and modules that the block has replaced, added or removed are those of before again.
    """
    modules = [(module, module.training, vars(module).copy()) for module in model.modules()]
    tables = [
        (names, names.copy())
        for module in model.modules()
        for kind in ("_parameters", "_buffers", "_modules")
        if isinstance(names := getattr(module, kind), dict)
    ]
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, training, bound in modules:
            vars(module).clear()
            vars(module).update(bound)
            module.training = training  # A ScriptModule does not keep it in vars.
        for names, bound in tables:
            names.clear()
            names.update(bound)
        with torch.no_grad():
            for buffer, value in values:
                if not torch.equal(buffer, value):  # An expanded buffer cannot be written.
                    buffer.resize_(value.shape).copy_(value)


@contextlib.contextmanager
def restoring_model(model: nn.Module) -> Iterator[None]:
    """Restore weights, gradients and modules when the block ends, which may train, convert or freeze the model."""
    before = [(each, each.data, each.requires_grad, each.grad) for each in model.parameters()]
    with restoring_weights([parameter for parameter, *_ in before]):
        try:
            for parameter, *_ in before:
                parameter.grad = None
            with restoring_modules(model), torch.enable_grad():
                yield
        finally:
            for parameter, data, trains, gradient in before:
                parameter.data = data  # It has another dtype after `model.double()`.
                parameter.requires_grad_(trains).grad = gradient


@contextlib.contextmanager
def recorded_steps() -> Iterator[list[Optimizer]]:
    """Record the optimizer of every step in the block, of any optimizer, in a list."""
    steps = list[Optimizer]()
    handle = register_optimizer_step_post_hook(lambda optimizer, *_: steps.append(optimizer))
    try:
        yield steps
    finally:
        handle.remove()


@contextlib.contextmanager
def _differentiable_in_evaluation(model: nn.Module) -> Iterator[None]:
    """Disable cuDNN for recurrent layers: its layers are differentiable in training mode only, and once."""
    recurrent = torch.cuda.is_available() and any(isinstance(module, nn.RNNBase) for module in model.modules())
    with torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext():
        yield


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers of a model under all their names."""
    inner = unwrapped(model)
    return chain(inner.named_parameters(remove_duplicate=False), inner.named_buffers(remove_duplicate=False))


@contextlib.contextmanager
def with_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a model compute with other parameters and buffers, given by canonical name."""
    names = {name: canonical(name) for name, _ in named_tensors(model)}
    replaced = {name: tensors[short] for name, short in names.items() if short in tensors}
    with _reparametrize_module(unwrapped(model), replaced, tie_weights=True):
        yield


@contextlib.contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Run compiled parts of a model eagerly: compiling for one sample in float64 never pays."""
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:  # Setting the stance takes seconds to import.
        yield


Derivative = Callable[[Tensor, list[nn.Parameter]], Sequence[Tensor | None]]
"""(loss summed over a batch, weights) -> a tensor for each weight, None if the loss does not depend on it; linear in
the loss."""


def mean_gradient(
    model: nn.Module, layout: Layout, scoring: Scoring, batch_norm: str = "batch", temperature: float = 1.0
) -> Tensor:
    """Return ∂/∂θ of the loss averaged over all samples (paper, g0 in eq. 3); see `mean_derivative`."""

    def gradient(loss: Tensor, weights: list[nn.Parameter]) -> Sequence[Tensor | None]:
        return torch.autograd.grad(loss, weights, allow_unused=True)

    return mean_derivative(model, layout, scoring, gradient, "gradient", temperature, batch_norm)


def mean_derivative(
    model: nn.Module,
    layout: Layout,
    scoring: Scoring,
    derivative: Derivative,
    name: str,
    temperature: float = 1.0,
    batch_norm: str = "batch",
) -> Tensor:
    """Return a derivative of the loss averaged over all samples of all batches.

    The cross-entropy is averaged over all targets that count. Another loss is the mean of a batch; these means are
    averaged, each by its number of samples. Under `torch.distributed`, over the batches of all processes. The
    parameters' own `.grad` is left alone.

    Args:
        model: model with the layout's weights; left unchanged.
        layout: the weights to differentiate by.
        scoring: batches on any device, and their loss.
        derivative: derivative of the loss.
        name: name of the derivative in errors.
        temperature: divisor of the logits; of the cross-entropy alone.
        batch_norm: mode of batch norm, see `scoring_mode`.

    Returns:
        float32 (P,) in layout order, on the model's device.
    """
    model = unwrapped(model)
    problem = f"the {name} of this network cannot be taken"
    weights = list(layout.weights(model).values())
    flat = torch.zeros(layout.size, dtype=torch.float32, device=weights[0].device)
    parts = list(layout.unflatten(flat).values())
    samples = torch.zeros((), dtype=torch.float64, device=flat.device)
    with scoring_mode(model, batch_norm), _differentiable(weights):
        for batch in scoring.batches:
            with naming_layers(problem, model):
                total, count = total_loss(scoring.loss, model, send_to_device(batch, flat.device), temperature)
            with naming_layers(problem):
                values = derivative(total, weights)
            if all(value is None for value in values):
                raise UserError(f"{problem}: the loss depends on no prunable weight")
            for part, value in zip(parts, values, strict=True):
                if value is not None:
                    part += value
            samples += count
    all_reduce(flat, samples)
    if not samples:
        raise UserError(f"the {name} needs at least one batch with a target that counts; none was given")
    check_derivative(flat.div_(samples), name, layout, scoring)
    return flat


def check_derivative(values: Tensor, name: str, layout: Layout, scoring: Scoring) -> None:
    """Refuse values (P,) that are not finite; name the first layer, or the batch that explains it."""
    if not values.isfinite().all():
        check_finite(scoring)
        layer = layout.layer_at(int((~values.isfinite()).nonzero()[0]))
        raise UserError(f"the {name} is not finite, first in layer {layer.name}")


def total_loss(loss: Loss, model: nn.Module, batch: object, temperature: float = 1.0) -> tuple[Tensor, Tensor | int]:
    """Return the loss summed over a batch, and the number of samples or targets that count."""
    if isinstance(loss, CrossEntropy):
        total, count = loss.total(model, batch, temperature)
        return check_loss(total), count
    samples = batch_size(batch)
    return check_loss(loss(model, batch)) * samples, samples


@contextlib.contextmanager
def _differentiable(weights: list[nn.Parameter]) -> Iterator[None]:
    """Enable gradients, also of frozen weights."""
    trained = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for weight, trains in zip(weights, trained, strict=True):
            weight.requires_grad_(trains)
