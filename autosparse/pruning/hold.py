"""Removed weights that stay zero while an optimizer trains the others."""

from collections.abc import Iterable
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from autosparse.errors import UserError
from autosparse.pruning.layout import Layout
from autosparse.pruning.prunable import unwrapped
from autosparse.pruning.sharded import clear, is_sharded, local, local_part


class _Held:
    """One weight, and where it is removed."""

    def __init__(self, weight: nn.Parameter, removed: Tensor) -> None:
        self.weight = weight
        self._removed = local_part(removed, weight)

    def clear(self, tensor: Tensor) -> None:
        """Zero what is removed in a tensor that is laid out as the weight is."""
        self._removed = self._removed.to(local(tensor).device)  # a model may move after it was held
        clear(tensor, self._removed)

    def clear_gradient(self, weight: Tensor) -> None:
        """Zero the gradient of what is removed: before gradients are averaged, clipped or made momentum."""
        if weight.grad is not None:
            self.clear(weight.grad)


class _Reapply:
    """A hook on a module: what was loaded into its weights is masked again.

    A copy of the module, and what is unpickled, has a hook that does nothing: no optimizer trains the copy.
    """

    def __init__(self, held: dict[str, _Held] | None = None) -> None:
        self.held = held or {}

    def __call__(self, module: nn.Module, _: Any) -> None:
        for name, held in self.held.items():
            held.clear(module._parameters[name])  # type: ignore[arg-type]  # may be another tensor now (assign=True)

    def __reduce__(self) -> tuple[type["_Reapply"], tuple[()]]:
        return _Reapply, ()


class Hold:
    """The hooks that hold a mask; `release` removes them, as does leaving a `with` block."""

    def __init__(self, layout: Layout, kept: Tensor, model: nn.Module, *optimizers: Optimizer) -> None:
        """See `Mask.hold`."""
        self._optimizers = [_inner(optimizer) for optimizer in optimizers]
        weights = layout.weights(model)
        optimized = {
            id(weight)
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for weight in group["params"]
        }
        if not optimizers:
            raise UserError("a mask is held while an optimizer trains: mask.hold(model, optimizer)")
        if not any(id(weight) in optimized for weight in weights.values()):
            raise UserError(
                f"the optimizer has none of the weights of the mask ({next(iter(weights))}, ...); "
                "make it from the parameters of this model, after wrapping it"
            )
        removed = layout.unflatten(~kept)
        self._held = [_Held(weight, removed[name]) for name, weight in weights.items()]
        self._clear_weights()
        self._clear_state()
        self._hooks: list[Any] = [*_gradient_hooks(self._held), *_loading_hooks(model, self._held)]
        for optimizer in self._optimizers:
            self._hooks += [
                # a gradient may come about without the weight's own hook: of FSDP2, or written by hand
                optimizer.register_step_pre_hook(lambda *_: self._clear_gradients()),
                optimizer.register_step_post_hook(lambda *_: self._clear_weights()),
                optimizer.register_load_state_dict_post_hook(lambda _: self._clear_state()),
            ]

    def release(self) -> None:
        """Let the weights go; they stay what they are. A second time does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def __enter__(self) -> "Hold":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _clear_weights(self) -> None:
        for held in self._held:
            held.clear(held.weight)

    def _clear_gradients(self) -> None:
        for held in self._held:
            held.clear_gradient(held.weight)

    def _clear_state(self) -> None:
        """Momentum from before would move removed weights, and count for others where norms are taken."""
        for held in self._held:
            for optimizer in self._optimizers:
                for value in optimizer.state.get(held.weight, {}).values():
                    if isinstance(value, Tensor) and value.shape == held.weight.shape:
                        held.clear(value)


def _inner(optimizer: Optimizer) -> Optimizer:
    """The optimizer in its wrappers, such as Accelerate's."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def _gradient_hooks(held: Iterable[_Held]) -> list[Any]:
    """Hooks that clear each gradient as soon as it is there; a frozen weight has none, FSDP2 makes its own."""
    return [
        each.weight.register_post_accumulate_grad_hook(each.clear_gradient)
        for each in held
        if each.weight.requires_grad and not is_sharded(each.weight)
    ]


def _loading_hooks(model: nn.Module, held: Iterable[_Held]) -> list[Any]:
    """Hooks on every module that has a held weight: the last one to load a tied weight must mask it too."""
    by_weight = {id(each.weight): each for each in held}
    hooks = []
    for module in unwrapped(model).modules():
        own = {name: by_weight[id(weight)] for name, weight in module._parameters.items() if id(weight) in by_weight}
        if own:
            hooks.append(module.register_load_state_dict_post_hook(_Reapply(own)))
    return hooks
