"""Removed weights that stay zero while optimizers train the others."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autosparse.errors import UserError
from autosparse.pruning.layout import Layout
from autosparse.pruning.prunable import clear, is_sharded, local, local_part, unwrapped


class Hold:
    """The hooks that hold a mask; `release`, or the end of a `with` block, removes them.

    Examples:
        >>> mask = autosparse.prune(model, criterion="magnitude", sparsity=0.9)
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        >>> handle = mask.hold(model, optimizer)
        >>> torch.nn.functional.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
        >>> optimizer.step()
        >>> int(model[0].weight.count_nonzero() + model[2].weight.count_nonzero())
        192
        >>> handle.release()
    """

    def __init__(self, layout: Layout, kept: Tensor, model: nn.Module, *optimizers: Optimizer) -> None:
        """Hold a mask; see `Mask.hold`."""
        weights = layout.weights(model)
        if not optimizers:
            raise UserError(
                "a mask is held while an optimizer trains: mask.hold(model, optimizer); "
                "a loop without one calls mask.apply_(model) after each update"
            )
        for optimizer in optimizers:
            if not hasattr(optimizer, "step") or not any(isinstance(each, Optimizer) for each in _chain(optimizer)):
                got = type(optimizer).__name__
                raise UserError(f"mask.hold takes the model, then its optimizers one by one; got {got}")
        optimized = {weight for optimizer in optimizers for weight in _weights(optimizer)}
        if optimized.isdisjoint(weights.values()):
            raise UserError(
                f"the optimizer has none of the weights of the mask ({next(iter(weights))}, ...); "
                "make it from the parameters of this model, after wrapping it"
            )
        parts = layout.unflatten(kept)
        names = {weight: name for name, weight in weights.items() if not parts[name].all()}
        _warn(
            "the mask prunes frozen layers (requires_grad=False): {}; prune(..., exclude=...) leaves them dense",
            [name for weight, name in names.items() if not weight.requires_grad],
        )
        _warn(
            "none of the optimizers has these layers: {}; give all optimizers, or call apply() after each other update",
            [name for weight, name in names.items() if weight.requires_grad and weight not in optimized],
        )
        self._kept = {weight: local_part(parts[name], weight) for weight, name in names.items()}
        with ExitStack() as hooks:
            for hook in self._register(model, optimizers):
                hooks.callback(hook.remove)
            self._hooks = hooks.pop_all()
        self.apply()
        for optimizer in optimizers:
            self._clear_state(optimizer)

    def apply(self) -> None:
        """Set the removed weights to zero, after they were changed by anything but a step of the optimizers."""
        for weight in self._kept:
            self._clear(weight, weight)

    def release(self) -> None:
        """Remove the hooks; the weights stay as they are. A second call does nothing."""
        self._hooks.close()

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _register(self, model: nn.Module, optimizers: tuple[Optimizer, ...]) -> Iterator[Any]:
        """Register the hooks one by one."""
        for weight in self._kept:
            if not is_sharded(weight):  # FSDP2 makes its own gradients.
                trains = weight.requires_grad  # It may be frozen now and thawed later.
                yield weight.requires_grad_().register_post_accumulate_grad_hook(self._clear_gradient)
                weight.requires_grad_(trains)
        for module in unwrapped(model).modules():
            own = {name: weight for name, weight in module._parameters.items() if weight in self._kept}
            if own and isinstance(module, torch.jit.ScriptModule):
                raise UserError("torch.jit.script makes modules that run no hooks; hold the mask before it")
            if own:  # every module of a tied weight: the last one to load it must mask it
                hook = _ModuleHook(functools.partial(self._clear_loaded, own))
                yield module.register_load_state_dict_post_hook(hook)
        yield model.register_forward_pre_hook(_ModuleHook(self._before_call), prepend=True)  # FSDP2 gathers after it
        for optimizer in dict.fromkeys(each for outer in optimizers for each in _chain(outer)):
            yield from self._hooks_of(optimizer)

    def _hooks_of(self, optimizer: Any) -> Iterator[Any]:
        def before(*_: Any) -> None:  # gradients of FSDP2, or written by hand, have run no hook of their weight
            for weight in self._of(optimizer):
                self._clear_gradient(weight)

        def after(*_: Any) -> None:
            for weight in self._of(optimizer):
                self._clear(weight, weight)

        try:
            yield optimizer.register_load_state_dict_post_hook(self._clear_state)
        except AttributeError:
            yield _MethodHook(optimizer, "step", after, before)
            if hasattr(optimizer, "load_state_dict"):
                yield _MethodHook(optimizer, "load_state_dict", functools.partial(self._clear_state, optimizer))
        else:
            yield optimizer.register_step_pre_hook(before)
            yield optimizer.register_step_post_hook(after)

    def _of(self, optimizer: Any) -> list[nn.Parameter]:
        """Return the held weights of an optimizer, looked up each time: groups may be added during training."""
        return [weight for weight in _weights(optimizer) if weight in self._kept]

    def _clear(self, tensor: Tensor, weight: nn.Parameter) -> None:
        """Zero the removed elements of a tensor that is laid out like a weight."""
        self._kept[weight] = self._kept[weight].to(local(tensor).device)  # A model may move after it was held.
        clear(tensor, self._kept[weight])

    def _clear_gradient(self, weight: Any) -> None:
        """Zero the gradient of removed elements before it is averaged, clipped or added to momentum."""
        if weight.grad is not None:
            self._clear(weight.grad, weight)

    def _clear_loaded(self, own: dict[str, nn.Parameter], module: nn.Module) -> None:
        for name, weight in own.items():  # assign=True replaces the tensor, torch.nn.utils.prune its name
            self._clear(module._parameters.get(name, weight), weight)  # type: ignore[arg-type]

    def _clear_state(self, optimizer: Any) -> None:
        """Zero the state of removed weights in optimizers, such as momentum: it would move them or count in norms."""
        states = [getattr(each, "state", {}) for each in _chain(optimizer) if isinstance(each, Optimizer)]
        for weight in self._of(optimizer):
            for value in [value for state in states for value in state.get(weight, {}).values()]:
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    self._clear(value, weight)

    def _before_call(self, _: nn.Module) -> None:
        """Zero removed weights that were changed between steps, for example by SAM or by averages of weights."""
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()):
            for weight in self._kept:
                self._clear(weight.data, weight)  # by .data, so that graphs made before stay valid


class _ModuleHook:
    """A hook on a module that masks weights again. Copies and pickles of the module get a hook that does nothing."""

    def __init__(self, apply: Callable[[nn.Module], None] | None = None) -> None:
        self._apply = apply

    def __call__(self, module: nn.Module, _: Any) -> None:
        if self._apply is not None:
            self._apply(module)

    def __reduce__(self) -> tuple[type["_ModuleHook"], tuple[()]]:
        return _ModuleHook, ()


class _MethodHook:
    """Calls around a method of an optimizer that runs no hooks: many wrappers skip `Optimizer.__init__`."""

    def __init__(self, optimizer: Any, name: str, after: Callable[[], None], before: Callable[[], None] | None = None):
        method = getattr(optimizer, name)

        @functools.wraps(method)
        def around(_: Any, *args: Any, **kwargs: Any) -> Any:
            if before is not None:
                before()
            returned = method(*args, **kwargs)
            after()
            return returned

        setattr(optimizer, name, MethodType(around, optimizer))  # Schedulers of learning rates wrap methods only.
        self.remove = functools.partial(setattr, optimizer, name, method)


def _chain(optimizer: Any) -> list[Any]:
    """Return an optimizer and those that it wraps, under attributes of any name."""
    found = [optimizer]
    for each in found:
        for value in getattr(each, "__dict__", {}).values():
            inner = value if isinstance(value, list | tuple) else [value]
            found += [other for other in inner if isinstance(other, Optimizer) and other not in found]
    return found


def _weights(optimizer: Any) -> dict[nn.Parameter, None]:
    """Return the weights of an optimizer and of those that it wraps, each once."""
    groups = [group for each in _chain(optimizer) for group in getattr(each, "param_groups", ())]
    return dict.fromkeys(weight for group in groups for weight in group["params"])


def _warn(message: str, layers: list[str]) -> None:
    """Warn of layers, if any, from the line that called `Mask.hold`."""
    if layers:
        some = ", ".join(layers[:3]) + (", ..." if len(layers) > 3 else "")
        warnings.warn(message.format(some), stacklevel=4)
