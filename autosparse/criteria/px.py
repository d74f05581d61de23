"""PX: path exclusion (Iurada et al. 2024, arXiv 2406.01820)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autosparse.criteria.base import Scoring
from autosparse.criteria.flow import call_with_ones, flow, in_double, run
from autosparse.criteria.network_call import Call, call_of
from autosparse.distributed import all_reduce
from autosparse.errors import UserError
from autosparse.pruning import Mask
from autosparse.pruning.prunable import canonical, unwrapped

_RELUS = ("relu", "relu_", "leaky_relu", "leaky_relu_")
_NONLINEAR = frozenset(
    """
    celu elu elu_ exp gelu glu group_norm hardsigmoid hardswish hardtanh hardtanh_ instance_norm layer_norm
    local_response_norm log_softmax logsigmoid mish multi_head_attention_forward normalize prelu relu6
    rms_norm rrelu scaled_dot_product_attention selu sigmoid sigmoid_ silu softmax softplus softsign tanh
    tanh_
    """.split()  # noqa: SIM905
)
_PROBLEM = "px cannot prune this network"
_OTHERS = "synflow, dataflow and snip may take it"
Named = dict[str, Tensor]


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
        UserError: there is another activation than a ReLU, attention, normalization of a sample or a recurrent layer,
            the inputs are indices, or the network fails (names the layer).
    """
    _refuse_recurrent(model)
    state = in_double(model)
    ones, embedding = call_with_ones("px", model, scoring, mask.kept.device)
    if embedding is not None:
        raise UserError(f"{_PROBLEM}: it squares inputs, and these are indices; {_OTHERS}")
    carried = _carried(model, state, ones, scoring)
    squared = _without_shifts(model, state, Tensor.square)
    with _Relus(None):
        gradients = flow(
            "px", model, mask.layout, squared, ones, complete=False, total=lambda out: (carried * out[0]).sum()
        )
    products = {name: gradient.mul_(squared[name].detach()).abs_() for name, gradient in gradients.items()}
    largest = max(product.amax() for product in products.values()).clamp_min(torch.finfo(torch.float64).tiny)
    return mask.layout.flatten({name: product.div_(largest).float() for name, product in products.items()})


def _carried(model: nn.Module, state: Named, first: Call, scoring: Scoring) -> Tensor:
    """Return J(x²) summed over the samples of all processes, for each output."""
    device = first.inputs.device
    units = _without_shifts(model, state, torch.ones_like)
    with torch.no_grad(), _Relus(None):
        total = torch.zeros_like(run("px", model, units, first, None, lambda out: out[0]))
    for batch in scoring.batches:
        call = call_of("px", model, scoring.loss, batch).map(lambda x: x.to(device))
        inputs = call.inputs.double()
        with torch.no_grad():
            with _Relus([]) as active:
                run("px", model, state, call.with_inputs(inputs), None, Tensor.detach)
            with _Relus(active.maps, replay=True):
                part = run("px", model, units, call.with_inputs(inputs.square()), None, lambda out: out.sum(0))
        if part.shape != total.shape:
            both = " and ".join(str(tuple(tensor.shape)) for tensor in (total, part))
            raise UserError(f"px compares outputs element by element; they are of shapes {both}; pad the inputs")
        total += part
    all_reduce(total)
    return total


def _without_shifts(model: nn.Module, state: Named, change: Callable[[Tensor], Tensor]) -> Named:
    """Return the parameters changed, except for biases and running means, which are 0; tied ones stay one tensor."""
    parameters = {canonical(name) for name, _ in unwrapped(model).named_parameters(remove_duplicate=False)}
    changed = dict[Tensor, Tensor]()
    for name, tensor in state.items():
        if name.endswith(("bias", "running_mean")) or ".bias_" in name:
            changed[tensor] = torch.zeros_like(tensor)
        else:
            changed[tensor] = change(tensor) if name in parameters else tensor
    return {name: changed[tensor] for name, tensor in state.items()}


class _Relus(TorchFunctionMode):
    """Records the active units of ReLUs in `maps`, multiplies by them instead (`replay`), or skips ReLUs (None)."""

    def __init__(self, maps: list[Tensor] | None, *, replay: bool = False) -> None:
        super().__init__()
        self.maps, self._replayed = maps or [], iter(maps or []) if replay else None
        self._recording = maps is not None and not replay

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
        if self._recording:
            self.maps.append(inputs > 0)
            return func(*args, **kwargs)
        if self._replayed is None:
            return inputs
        active = next(self._replayed)
        in_place = name.endswith("_") or kwargs.get("inplace", False)
        return inputs.mul_(active) if in_place else inputs * active


def _refuse_recurrent(model: nn.Module) -> None:
    for name, module in unwrapped(model).named_modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention):
            kind = type(module).__name__
            raise UserError(
                f"{_PROBLEM}: it follows paths through ReLUs, and layer {canonical(name)} is a {kind}; {_OTHERS}"
            )
