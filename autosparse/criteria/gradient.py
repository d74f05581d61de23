"""The gradient of the mean loss over a set of batches: the feature of AutoS and the ground of SNIP."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from autosparse.criteria.base import Batches
from autosparse.criteria.failures import in_one_line, naming_layers
from autosparse.criteria.loss import checked, summed_cross_entropy
from autosparse.distributed import all_reduce
from autosparse.errors import UserError, unknown
from autosparse.pruning import Layout

BATCH_NORM_MODES = ("batch", "running")
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@contextlib.contextmanager
def scoring_mode(model: nn.Module, batch_norm: str = "batch") -> Iterator[None]:
    """Evaluation mode (no dropout), with batch normalization on each batch's own statistics; all is put back after.

    The running statistics are neither used nor changed. `batch_norm="running"` uses them instead: with fresh ones
    the layer is near the identity (the paper's code).
    """
    if batch_norm not in BATCH_NORM_MODES:
        raise unknown("batch-norm mode", batch_norm, BATCH_NORM_MODES)
    training = {module: module.training for module in model.modules()}
    tracking = {
        module: module.track_running_stats
        for module in model.modules()
        if batch_norm == "batch" and isinstance(module, _BATCH_NORMS)
    }
    model.eval()
    for norm in tracking:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, tracked in tracking.items():
            norm.track_running_stats = tracked
        for module, flag in training.items():
            module.training = flag


def mean_gradient(
    model: nn.Module, layout: Layout, batches: Batches, batch_norm: str = "batch", temperature: float = 1.0
) -> Tensor:
    """∂/∂θ of the cross-entropy averaged over all samples (paper, g0 in eq. 3); see `mean_derivative`."""

    def gradient(loss: Tensor, weights: list[nn.Parameter]) -> Sequence[Tensor]:
        return torch.autograd.grad(loss, weights, materialize_grads=True)

    return mean_derivative(model, layout, batches, gradient, "gradient", temperature, batch_norm)


def mean_derivative(
    model: nn.Module,
    layout: Layout,
    batches: Batches,
    derivative: Callable[[Tensor, list[nn.Parameter]], Sequence[Tensor]],
    name: str,
    temperature: float = 1.0,
    batch_norm: str = "batch",
) -> Tensor:
    """A derivative of the cross-entropy averaged over all samples of all batches.

    Under `torch.distributed`, over the samples of all processes. The parameters' own `.grad` is left alone.

    Args:
        model: any module with the layout's weights; it is left as it was.
        layout: whose weights to differentiate by.
        batches: (inputs, targets), on any device.
        derivative: (loss summed over a batch, weights) -> a tensor for each weight; linear in the loss.
        name: what the derivative is called.
        temperature: what logits are divided by.
        batch_norm: see `scoring_mode`.

    Returns:
        float32 (P,) in layout order, on the model's device.

    Raises:
        UserError: no samples, a batch or outputs that have no cross-entropy, a network that fails (names the layer), or
            a derivative that is not finite (names the layer).
    """
    weights = list(layout.weights(model).values())
    flat = torch.zeros(layout.size, device=weights[0].device)
    parts = [flat[layer.offset : layer.offset + layer.size].view(layer.shape) for layer in layout.layers]
    samples = torch.zeros((), dtype=torch.float64, device=flat.device)
    with scoring_mode(model, batch_norm), _differentiable(weights):
        for inputs, targets in checked(batches):
            with naming_layers(f"the {name} of this network cannot be taken", model):
                outputs = model(inputs.to(flat.device))
            loss = summed_cross_entropy(outputs, targets.to(flat.device), temperature)
            with in_one_line(f"the {name} of this network cannot be taken"):
                values = derivative(loss, weights)
            for part, value in zip(parts, values, strict=True):
                part += value
            samples += len(targets)
    all_reduce(flat, samples)
    if not samples:
        raise UserError("the gradient needs at least one batch; none was given")
    flat.div_(samples)
    if not flat.isfinite().all():
        layer = layout.layer_at(int((~flat.isfinite()).nonzero()[0]))
        raise UserError(f"the {name} is not finite, first in layer {layer.name}")
    return flat


@contextlib.contextmanager
def _differentiable(weights: list[nn.Parameter]) -> Iterator[None]:
    """Let frozen weights be differentiated by, and be frozen again after."""
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
