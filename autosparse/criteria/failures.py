"""Which layer it was that a network failed at, in one line."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from autosparse.pruning.prunable import canonical


@contextlib.contextmanager
def naming_layers(problem: str, model: nn.Module, *, finite: bool = False, after: str = "the loss") -> Iterator[None]:
    """Say which layer a forward pass failed at.

    Args:
        problem: what cannot be done, the start of the error.
        model: that is called inside; its hooks are taken off again.
        finite: whether a layer fails whose output is not finite; looking costs a pass over each.
        after: what runs inside once the model has.

    Raises:
        UserError: a layer cannot take what it is given, or gives what is not finite.
    """
    running = "the input"

    def before(name: str) -> None:
        nonlocal running
        running = f"layer {name}" if name else "the first layer"

    def check(name: str, output: object) -> None:
        if isinstance(output, Tensor) and not output.isfinite().all():
            raise UserError(f"{problem}: what layer {name} gives is not finite")

    def outside(*_: object) -> None:
        nonlocal running
        running = after

    named = [(canonical(name), module) for name, module in model.named_modules()]
    leaves = [
        (name, module)
        for name, module in named
        if next(module.children(), None) is None and not isinstance(module, torch.jit.ScriptModule)  # has no hooks
    ]
    hooks = [module.register_forward_pre_hook(lambda m, x, name=name: before(name)) for name, module in leaves]
    if finite:
        hooks += [module.register_forward_hook(lambda m, x, y, name=name: check(name, y)) for name, module in leaves]
    hooks.append(model.register_forward_hook(outside))  # after that of a model that is one layer
    try:
        with in_one_line(problem, lambda: f"it fails at {running}: "):
            yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def in_one_line(problem: str, where: Callable[[], str] = str) -> Iterator[None]:
    """Torch's errors as the user's, by their first line; a lack of memory stays what it is."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, LookupError, ValueError, AttributeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        if isinstance(error, KeyError) or not reason:  # whose text is the key alone
            reason = f"{type(error).__name__} {reason}".strip()
        raise UserError(f"{problem}: {where()}{reason}") from error


def why_nothing_passes(model: nn.Module, layout: Layout) -> str:
    """What may be the reason that nothing flows from the inputs to the outputs, or back."""
    zero = [name for name, weight in layout.weights(model).items() if not weight.any()]
    if zero:
        return f"all weights of layer {zero[0]} are zero; it must be initialized otherwise"
    return (
        "inputs of zeros, an activation that saturates, such as a sigmoid, or a norm of equal values let nothing pass"
    )


def refuse_zeros(scores: Tensor, model: nn.Module, alive: Mask) -> None:
    """Refuse scores that say nothing.

    Args:
        scores: float32 (P,), the same in every process.
        model: that was scored.
        alive: what it has left, which a round may have cut in two: only a whole one is refused.

    Raises:
        UserError: all scores of a network of which nothing has been pruned are zero.
    """
    if alive.count == alive.layout.size and not scores.any():
        raise UserError(f"all scores are zero, so they cannot choose; {why_nothing_passes(model, alive.layout)}")
