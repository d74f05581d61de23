"""A mask as `torch.nn.utils.prune` has it: only where its hook reaches the weight."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import prune

from autosparse.errors import UserError
from autosparse.pruning.layout import Layout
from autosparse.pruning.multiplications import weights_read
from autosparse.pruning.prunable import canonical, is_transposed, parameters_by_name, unwrapped

_CALLED = (
    *(nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
_READ = (nn.MultiheadAttention, nn.TransformerEncoderLayer)  # which read the weights of modules without calling them


def export(layout: Layout, kept: Tensor, model: nn.Module, batch: Any) -> None:
    """See `Mask.export`."""
    weights = layout.weights(model)
    names: dict[int, list[str]] = {}
    for name, parameter in parameters_by_name(model).items():
        names.setdefault(id(parameter), []).append(name)
    owners = _owners(unwrapped(model))
    for name, weight in weights.items():
        if len(tied := names[id(weight)]) > 1:
            raise _refusal(name, f"is one weight under several names ({', '.join(tied)})")
        if (reader := owners[name][1]) is not None:
            raise _refusal(name, f"is read by {reader} without a call of its module")
    called = set[str]()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
        for name, (module, _) in owners.items()
        if name in weights
    ]
    try:
        read = weights_read(model, weights, batch)
    finally:
        for hook in hooks:
            hook.remove()
    for name in weights:
        if name in read - called:
            raise _refusal(name, "is read without a call of its module")
    for name, part in layout.unflatten(kept).items():
        prune.custom_from_mask(owners[name][0], "weight", part.to(weights[name].device))


def _refusal(name: str, why: str) -> UserError:
    return UserError(
        f"torch.nn.utils.prune cannot hold the mask: {name} {why}; "
        "use mask.apply_(model), or mask.hold(model, optimizer) while training"
    )


def _owners(model: nn.Module) -> dict[str, tuple[nn.Module, str | None]]:
    """Map a parameter's name to its module, and to the kind of module that reads it past the hook, if one does."""
    found: dict[str, tuple[nn.Module, str | None]] = {}
    inside: dict[nn.Module, str] = {}
    for path, module in model.named_modules():
        if isinstance(module, _READ):
            inside |= {each: inside.get(each, type(module).__name__) for each in module.modules()}
        for short in module._parameters:
            reader = inside.get(module)
            if reader is None and not (short == "weight" and (isinstance(module, _CALLED) or is_transposed(module))):
                reader = type(module).__name__
            found[canonical(f"{path}.{short}" if path else short)] = module, reader
    return found
