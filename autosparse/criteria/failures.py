"""Errors of networks in one line that names the layer."""

import contextlib
import traceback
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from autosparse.pruning.prunable import canonical

LOSS = "the loss, a function of (model, batch)"
"""Default place of a failure outside the model."""
_ERRORS = (RuntimeError, TypeError, LookupError, ValueError, AttributeError, AssertionError)


@contextlib.contextmanager
def naming_layers(
    problem: str, model: nn.Module | None = None, *, finite: bool = False, after: str = LOSS
) -> Iterator[None]:
    """Turn errors of torch into one line for the user; running out of memory stays what it is.

    Args:
        problem: start of the error message.
        model: model that the block calls, whose failing layer is named; None for no place.
        finite: whether to refuse outputs of layers that are not finite; costs a pass over each output.
        after: place of a failure outside the model.
    """
    names = {} if model is None else {module: _described(name, module) for name, module in model.named_modules()}

    def check(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        if isinstance(output, Tensor) and not output.isfinite().all():
            finite_inputs = all(tensor.isfinite().all() for tensor in inputs if isinstance(tensor, Tensor))
            verb = "returns" if finite_inputs else "gets"
            raise UserError(f"{problem}: {names[module]} {verb} values that are not finite")

    try:
        with contextlib.ExitStack() as hooks:
            for module in names if finite else ():
                if next(module.children(), None) is None and not isinstance(module, torch.jit.ScriptModule):
                    hooks.callback(module.register_forward_hook(check).remove)
            yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except _ERRORS as error:
        frames = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__))
        failed = [names[frame] for frame in frames if isinstance(frame, nn.Module) and frame in names]
        where = "" if model is None else f"it fails at {failed[-1] if failed else after}: "
        reason = str(error).strip().partition("\n")[0]
        if isinstance(error, KeyError) or not reason:  # The text of a KeyError is the key alone.
            reason = f"{type(error).__name__} {reason}".strip()
        raise UserError(f"{problem}: {where}{reason}") from error


def _described(name: str, module: nn.Module) -> str:
    return f"layer {named}" if (named := canonical(name)) else f"the forward of {type(module).__name__}"


def why_nothing_passes(model: nn.Module, layout: Layout) -> str:
    """Return a likely reason that nothing flows from the inputs to the outputs, or back."""
    zero = [name for name, weight in layout.weights(model).items() if not weight.any()]
    if zero:
        return f"all weights of layer {zero[0]} are zero; it must be initialized otherwise"
    return (
        "inputs of zeros, an activation that saturates, such as a sigmoid, or a norm of equal values let nothing pass"
    )


def refuse_zeros(scores: Tensor, model: nn.Module, mask: Mask) -> None:
    """Refuse scores that are all zero, unless earlier rounds have pruned the model, which may have cut it in two."""
    if mask.count == mask.layout.size and not scores.any():
        raise UserError(f"all scores are zero, so they cannot choose; {why_nothing_passes(model, mask.layout)}")
