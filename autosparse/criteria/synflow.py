"""SynFlow, synaptic flow without data (Tanaka et al. 2020, eq. 3), and Dataflow, the same from the data's deviation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autosparse.criteria.base import Scoring
from autosparse.criteria.failures import naming_layers, refuse_zeros, why_nothing_passes
from autosparse.criteria.flow import (
    Call,
    Embeddings,
    Named,
    absolute,
    call_of,
    call_with_ones,
    first_call,
    flow,
    in_double,
    scores_of,
    takes_ids,
)
from autosparse.criteria.gradient import scoring_mode
from autosparse.distributed import all_reduce
from autosparse.errors import UserError
from autosparse.pruning import Mask
from autosparse.pruning.prunable import unwrapped

_FAINT = 1e-100  # so faint that activations stay near 0 after many layers
_LOST = 1e-30  # near the end of the range of float32
_PROBLEM = "dataflow cannot prune this network"


def synflow(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
    """Return |θ| ⊙ ∂R/∂|θ|, R the sum of the outputs for an input of ones, divided by the largest.

    All weights, biases and statistics by their absolute values, batch norm and dropout in evaluation mode, in float64,
    as products over many layers leave the range of float32. If inputs are indices, their embeddings are ones.
    Normalization of a sample can reverse a flow; its absolute value is the score. Looks at no batch except for the
    first input; costs a forward and a backward pass of one sample in float64. One shot it is poor; it is meant for 100
    `Rounds`.

    Raises:
        UserError: R is not finite, or nothing flows from the input through a layer to the outputs (names the layer).
    """
    state = in_double(model, absolute)
    call, embedding = call_with_ones("synflow", model, scoring, mask.kept.device)
    products = _products(state, flow("synflow", model, mask.layout, state, call, embedding))
    scores = scores_of(products, mask)
    if mask.count == mask.layout.size:  # Later rounds may cut a layer off.
        for name, part in mask.layout.unflatten(scores).items():
            if not part.any():
                why = why_nothing_passes(model, mask.layout)
                raise UserError(
                    f"synflow cannot prune this network: nothing flows through layer {name} to the outputs; {why}"
                )
    return scores


def dataflow(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
    """Return the scores of SynFlow for an input that is not ones but the standard deviation of the data.

    An element that is the same in every input, such as the corner of a digit's image, then brings nothing into the
    network. If inputs are indices, the deviations are those of their embeddings. Biases and running means are left out
    and the input is made very faint, so that activations that are 0 at 0 do not saturate. Other activations, such as a
    sigmoid, add values that drown the layers before them: if a layer's flows are lost next to the largest of all, they
    are divided by the layer's own largest. Nothing flows through a layer that does not lead to the outputs.
    Normalization can reverse a flow; its absolute value is the score. Ours; costs a pass over the batches, without the
    network unless it embeds them, besides the cost of SynFlow; in rounds, one pass for all of them.

    Raises:
        UserError: R is not finite, nothing flows at all, or all inputs are the same.
    """
    memo = {} if scoring.memo is None else scoring.memo
    if "deviation" not in memo:
        memo["deviation"] = deviation(model, scoring, mask.kept.device)
    call, embedded = memo["deviation"]
    if not any(part.any() for part in ([call.inputs] if embedded is None else embedded)):
        raise UserError("dataflow looks at how inputs differ; those that were given are all the same, or only one")

    def change(name: str, tensor: Tensor) -> Tensor:
        return tensor.zero_() if name.endswith(("bias", "running_mean")) else absolute(name, tensor)

    parts = iter(embedded or ())

    def embedding(indices: Tensor, output: Tensor) -> Tensor:
        part = next(parts, None)  # None: next to inputs that are not indices, embeddings are the same for all
        return torch.zeros_like(output) if part is None else (_FAINT * part).expand_as(output)

    call = call if embedded is not None else call.with_inputs(_FAINT * call.inputs)
    state = in_double(model, change)
    products = _products(state, flow("dataflow", model, mask.layout, state, call, embedding, complete=False))
    largest = {name: product.amax() for name, product in products.items()}
    most = max(largest.values())
    units = {name: most if unit > _LOST * most else unit for name, unit in largest.items()}
    scores = scores_of(products, mask, units)
    refuse_zeros(scores, model, mask)
    return scores


def _products(state: Named, gradients: Named) -> Named:
    """Return |θ ∂R/∂θ| of each layer, float64; empties `state` of the weights."""
    return {name: gradient.mul_(state.pop(name).detach()).abs_() for name, gradient in gradients.items()}


def deviation(model: nn.Module, scoring: Scoring, device: torch.device) -> tuple[Call, Sequence[Tensor] | None]:
    """Return the call of one sample, and the standard deviations over the samples of all processes.

    The deviations, float64 (1, ...), are the inputs of the call. If inputs are indices, they are those of the network's
    embeddings, one tensor (...) for each time that it embeds; zero for embeddings that all samples share, as positions.
    """
    first = first_call("dataflow", model, scoring, device)
    by_ids, model = takes_ids(model, first.inputs), unwrapped(model)

    def measure(call: Call) -> list[tuple[bool, Tensor]]:
        """Return the inputs or each embedding, (B, ...), and whether samples differ in it."""
        inputs = call.inputs
        if not by_ids:
            return [(True, inputs.double())]
        found = list[tuple[bool, Tensor]]()

        def record(ids: Tensor, output: Tensor) -> Tensor:
            differs = ids.shape[:1] == output.shape[:1] == inputs.shape[:1] and ids.ndim == inputs.ndim
            found.append((differs, output.double()))
            return output

        with scoring_mode(model, "running"), naming_layers(_PROBLEM, model), Embeddings(record), torch.no_grad():
            call(model)
        return found

    moments = [_Moments(values.shape[1:], device) for _, values in measure(first)]
    for batch in scoring.batches:
        call = call_of("dataflow", model, scoring.loss, batch).map(lambda x: x.to(device))
        if call.inputs.shape[1:] != first.inputs.shape[1:]:
            both = " and ".join(str(tuple(inputs.shape[1:])) for inputs in (first.inputs, call.inputs))
            raise UserError(
                f"dataflow compares inputs element by element; they are of shapes {both}; pad them, or take snip"
            )
        for part, (differs, values) in zip(moments, measure(call), strict=True):
            if differs:  # Positions, which all samples share, look like a sample's in a batch of one; they do not vary.
                part.add(values)
    deviations = [part.deviation() for part in moments]
    return (first, deviations) if by_ids else (first.with_inputs(deviations[0][None]), None)


class _Moments:
    """Sums of values and of their squares, element by element."""

    def __init__(self, shape: torch.Size, device: torch.device) -> None:
        self._sums, self._squares = (torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(2))
        self._samples = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, values: Tensor) -> None:
        self._sums += values.sum(0)
        self._squares += values.square().sum(0)
        self._samples += len(values)

    def deviation(self) -> Tensor:
        """Return the standard deviation over all processes."""
        all_reduce(self._sums, self._squares, self._samples)
        if not self._squares.isfinite().all():
            raise UserError("the inputs or their embeddings are not finite")
        samples = self._samples.clamp_min(1)
        squares = self._squares / samples
        variance = squares - (self._sums / samples).square()
        # The variance of a constant is a little above zero by rounding.
        return torch.where(variance > 1e-12 * squares, variance, 0.0).sqrt()
