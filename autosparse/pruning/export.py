"""A mask as `torch.nn.utils.prune` has it: only where its hook reaches the weight."""

from collections import defaultdict
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import prune

from autosparse.errors import UserError
from autosparse.pruning.layout import Layout
from autosparse.pruning.multiplications import observed
from autosparse.pruning.prunable import canonical, parameters_by_name, unwrapped

_READ = (nn.MultiheadAttention, nn.TransformerEncoderLayer)  # which read the weights of modules without calling them


def export(layout: Layout, kept: Tensor, model: nn.Module, batch: Any) -> None:
    """Hand a mask to `torch.nn.utils.prune`; see `Mask.export`."""
    weights, modules = layout.weights(model), dict(unwrapped(model).named_modules())
    owners = {canonical(f"{path}.weight"): path for path in modules}
    names = defaultdict[Tensor, list[str]](list)
    for name, parameter in parameters_by_name(model).items():
        names[parameter].append(name)
    for name, weight in weights.items():
        if len(tied := names[weight]) > 1:
            raise _refusal(name, f"is one weight under several names ({', '.join(tied)})")
        parents = [path for path in modules if f"{name}.".startswith(f"{canonical(path)}." if path else "")]
        readers = [path for path in parents if isinstance(modules[path], _READ)]
        if name not in owners or readers:
            reader = modules[(readers or parents)[0 if readers else -1]]
            raise _refusal(name, f"is read by {type(reader).__name__} without a call of its module")
    called = set[str]()
    with ExitStack() as hooks:
        for name in weights:
            hook = modules[owners[name]].register_forward_pre_hook(lambda *_, name=name: called.add(name))
            hooks.callback(hook.remove)
        read = observed(model, weights, batch).read
    for name in weights:
        if name in read - called:
            raise _refusal(name, "is read without a call of its module")
    for name, part in layout.unflatten(kept).items():
        prune.custom_from_mask(modules[owners[name]], "weight", part.to(weights[name].device))


def _refusal(name: str, why: str) -> UserError:
    return UserError(
        f"torch.nn.utils.prune cannot hold the mask: {name} {why}; "
        "use mask.apply_(model), or mask.hold(model, optimizer) while training"
    )
