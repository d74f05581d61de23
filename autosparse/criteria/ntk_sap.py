"""NTK-SAP: keep the spectrum of the neural tangent kernel (Wang et al. 2023, arXiv 2304.02840)."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from autosparse.criteria.base import Scoring
from autosparse.criteria.flow import (
    Call,
    Embedding,
    Named,
    evaluating,
    filled,
    first_call,
    gradient_of,
    in_double,
    scores_of,
)
from autosparse.pruning import Mask
from autosparse.pruning.prunable import unwrapped
from autosparse.seeds import stream

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def ntk_sap(
    model: nn.Module,
    mask: Mask,
    scoring: Scoring,
    *,
    seed: int = 0,
    drawings: int = 5,
    epsilon: float = 0.01,
    samples: int = 100,
) -> Tensor:
    """Return |∂J/∂m|, J = Σ ‖f(z; θ ⊙ m) - f(z; (θ + ε n) ⊙ m)‖², summed over random weights θ, inputs z and noise n.

    J / ε² estimates the trace of the neural tangent kernel, by finite differences. θ are new weights in each drawing, z
    and n are N(0, 1); z has the shape of the data, or replaces their embeddings if inputs are indices. Batch norm has,
    in both networks, the statistics of the first on z.

    A module does not say how its weights were drawn, so each layer's are drawn from a normal distribution with its own
    mean square: that is its initializer if that is Kaiming normal, as in this package's networks. The rest stays as it
    is. The authors' code (YiteWang/NTK-SAP) calls the initializer of its own networks.

    Looks at no batch except for the shape of an input, and at no target; any network that returns a tensor. In float64;
    a drawing costs four forward and two backward passes of `samples`. It is meant for 20 `Rounds`; each draws again.

    Args:
        model: model with `mask` applied.
        mask: the weights to choose from.
        scoring: batches, for the shape of an input.
        seed: seed of all drawings.
        drawings: R; the authors' script for ResNet-20 on CIFAR-10 takes 5, the default of their code is 1.
        epsilon: ε, the default of their code.
        samples: number of inputs z in a drawing. Theirs is the number of samples of a loader, ten per class by default,
            so 100 for CIFAR-10; of more than 256 they draw again for each batch of 256; ours do not.
    """
    device, layout = mask.kept.device, mask.layout
    generator = torch.Generator().manual_seed(stream("ntk-sap", seed, mask.count))

    def normal(shape: torch.Size) -> Tensor:
        """Draw values from N(0, 1), the same on every device."""
        return torch.randn(shape, dtype=torch.float64, device="cpu", generator=generator).to(device)

    call = first_call("ntk-sap", model, scoring, device)
    call = call.map(lambda x: x.repeat(samples, *[1] * (x.ndim - 1)) if x.ndim and len(x) == 1 else x)
    state = in_double(model)
    kept = layout.unflatten(mask.kept.double())
    sizes = {name: (state[name].square().sum() / kept[name].sum().clamp_min(1)).sqrt() for name in kept}
    scores = {name: torch.zeros_like(part) for name, part in kept.items()}
    for _ in range(drawings):
        theta = {name: sizes[name] * normal(part.shape) for name, part in kept.items()}
        noise = {name: epsilon * normal(part.shape) for name, part in kept.items()}
        inputs, embedding = filled(model, call, normal)
        for name, gradient in drawing_gradient(model, state, theta, noise, kept, inputs, embedding).items():
            scores[name] += gradient
    return scores_of({name: part.abs_() for name, part in scores.items()}, mask) * mask.kept


def drawing_gradient(
    model: nn.Module,
    state: Named,
    theta: Named,
    noise: Named,
    mask: Named,
    call: Call,
    embedding: Embedding | None = None,
) -> Named:
    """Return ∂J/∂m of one drawing.

    J is differentiated as Σ 2 d ⊙ f - Σ 2 d ⊙ f_ε with d = f - f_ε held fixed, one network at a time.
    """
    m = {name: part.clone().requires_grad_() for name, part in mask.items()}
    moved = {name: theta[name] + noise[name] for name in theta}

    def masked(weights: Named) -> contextlib.AbstractContextManager[None]:
        """Let the network compute with masked weights, under each name of a weight."""
        others = {state[name]: weights[name] * m[name] for name in m}
        tensors = {name: others.get(tensor, tensor) for name, tensor in state.items()}
        return evaluating("ntk-sap", model, tensors, embedding)

    def pull(weights: Named, along: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad(), masked(weights):
            out = call(unwrapped(model))
            return gradient_of(out, list(m.values()), along) if out.requires_grad else (None,) * len(m)

    with torch.no_grad():
        with masked(theta), _measuring(model):
            first = call(unwrapped(model))
        with masked(moved):
            along = 2 * (first - call(unwrapped(model)))
    pairs = zip(pull(theta, along), pull(moved, along), strict=True)
    return {
        name: (0.0 if a is None else a) - (torch.zeros_like(m[name]) if b is None else b)
        for name, (a, b) in zip(m, pairs, strict=True)
    }


@contextlib.contextmanager
def _measuring(model: nn.Module) -> Iterator[None]:
    """Let batch norms take the statistics of their inputs before they are called."""

    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        mean, variance = norm.running_mean, norm.running_var
        if isinstance(mean, Tensor) and isinstance(variance, Tensor):
            others = [dim for dim in range(inputs[0].ndim) if dim != 1]
            mean.copy_(inputs[0].mean(others))
            variance.copy_(inputs[0].var(others))

    hooks = [norm.register_forward_pre_hook(measure) for norm in unwrapped(model).modules() if isinstance(norm, _NORMS)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
