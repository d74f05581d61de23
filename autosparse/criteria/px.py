"""PX: path exclusion (Iurada et al. 2024, arXiv 2406.01820)."""

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autosparse.criteria.base import Scoring
from autosparse.criteria.flow import Call, Named, call_of, call_with_ones, evaluating, flow, in_double, scores_of
from autosparse.criteria.gradient import named_tensors
from autosparse.distributed import all_reduce
from autosparse.errors import UserError
from autosparse.pruning import Mask
from autosparse.pruning.prunable import canonical, unwrapped

_RELUS = ("relu", "relu_", "leaky_relu", "leaky_relu_")
_NONLINEAR = frozenset(
    """
    celu cos elu elu_ erf exp gelu glu group_norm gru gru_cell hardshrink hardsigmoid hardswish hardtanh hardtanh_
    instance_norm layer_norm local_response_norm log_sigmoid log_softmax lstm lstm_cell mish
    multi_head_attention_forward normalize prelu relu6 rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell rrelu
    scaled_dot_product_attention selu sigmoid sigmoid_ silu sin softmax softmin softplus softshrink softsign tanh tanh_
    tanhshrink
    """.split()  # noqa: SIM905
)
_PROBLEM = "px cannot prune this network"


def px(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
    """Return |∂L/∂(θ²)| ⊙ θ², L = Σ J(x²) · K(1): how much of the neural tangent kernel's trace goes through a weight.

    A, the network itself, says which of its ReLUs are active for each x. J, all weights 1, ReLUs those of A, of x²,
    counts what active paths carry from the data; K, all weights squared, no ReLU at all, of ones, is the weight of the
    paths; the dot product is over the outputs. All three in evaluation mode and float64. Biases and running means are
    left out of J and K, as no path starts from them.

    Ours: the score is that of the authors' code (iurada/px-ntk-pruning), J and K differ. There both are in training
    mode, so that batch norm takes the statistics of its inputs, and leave the scale of batch norm and the classifier
    (`fc`) as they are; here batch norm works by its running statistics, and all weights are 1, or squared.

    A ReLU may be leaky, as with the authors. Looks at all batches, at no targets; costs two forward passes over each,
    and a forward and a backward pass of one sample. Meant for 100 `Rounds`, by some samples of each class.

    Raises:
        UserError: the network has a common activation other than ReLU, attention, normalization of a sample or a
            recurrent layer, the inputs are indices, or the network fails (names the layer).
    """
    ones, embedding = call_with_ones("px", model, scoring, mask.kept.device)
    if embedding is not None:
        raise UserError(f"{_PROBLEM}: it squares inputs, and these are indices; synflow, dataflow and snip may take it")
    carried = _carried(model, ones, scoring)
    squared = _without_shifts(model, Tensor.square_)
    with _Relus(repeat(None)):
        gradients = flow(
            "px", model, mask.layout, squared, ones, complete=False, total=lambda out: (carried * out[0]).sum()
        )
    products = {name: gradient.mul_(squared[name].detach()).abs_() for name, gradient in gradients.items()}
    return scores_of(products, mask)


def _carried(model: nn.Module, first: Call, scoring: Scoring) -> Tensor:
    """Return J(x²) summed over the samples of all processes, for each output."""
    device, inner = first.inputs.device, unwrapped(model)
    state, units = in_double(model), _without_shifts(model, lambda weight: weight.fill_(1.0))
    with torch.no_grad(), _Relus(repeat(None)), evaluating("px", model, units):
        total = torch.zeros_like(first(inner)[0])
    for batch in scoring.batches:
        call = call_of("px", model, scoring.loss, batch).map(lambda x: x.to(device))
        inputs = call.inputs.double()
        with torch.no_grad(), _Relus() as active, evaluating("px", model, state):
            call.with_inputs(inputs)(inner)
        with torch.no_grad(), _Relus(active.maps), evaluating("px", model, units):
            part = call.with_inputs(inputs.square())(inner).sum(0)
        if part.shape != total.shape:
            both = " and ".join(str(tuple(tensor.shape)) for tensor in (total, part))
            raise UserError(f"px compares outputs element by element; they are of shapes {both}; pad the inputs")
        total += part
    all_reduce(total)
    return total


def _without_shifts(model: nn.Module, change: Callable[[Tensor], Tensor]) -> Named:
    """Return the model's tensors in float64, the parameters changed, but biases and running means 0."""
    parameters = {canonical(name) for name, tensor in named_tensors(model) if isinstance(tensor, nn.Parameter)}

    def changed(name: str, tensor: Tensor) -> Tensor:
        if name.endswith(("bias", "running_mean")) or ".bias_" in name:
            return tensor.zero_()
        return change(tensor) if name in parameters else tensor

    return in_double(model, changed)


class _Relus(TorchFunctionMode):
    """Records the active units of ReLUs in `maps`, or multiplies by given ones instead; skips a ReLU for None."""

    def __init__(self, replayed: Iterable[Tensor | None] | None = None) -> None:
        super().__init__()
        self.maps: list[Tensor] = []
        self._replayed = None if replayed is None else iter(replayed)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _NONLINEAR:
            raise UserError(f"{_PROBLEM}: it follows paths through ReLUs, and this computes {name.removesuffix('_')}")
        if name not in _RELUS:
            return func(*args, **kwargs)
        inputs: Tensor = args[0] if args else kwargs["input"]
        if self._replayed is None:
            self.maps.append(inputs > 0)
            return func(*args, **kwargs)
        active = next(self._replayed)
        if active is None:
            return inputs
        in_place = name.endswith("_") or kwargs.get("inplace", False)
        return inputs.mul_(active) if in_place else inputs * active
