"""The parameters of a model that can be pruned: matrices and kernels that multiply."""

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from autosparse.errors import UserError

# Kind of module -> pattern of the names of its parameters that multiply.
PRUNABLE: dict[type[nn.Module] | tuple[type[nn.Module], ...], str] = {
    (nn.Linear, nn.Bilinear): "weight",
    (nn.Conv1d, nn.Conv2d, nn.Conv3d): "weight",
    (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d): "weight",
    nn.MultiheadAttention: "(in|q|k|v)_proj_weight",
    (nn.RNNBase, nn.RNNCellBase): r"weight_(ih|hh|hr)(_l\d+(_reverse)?)?",
}
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_WRAPPERS = (DataParallel, DistributedDataParallel, AveragedModel)
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer types by the bytes of an element: zeroing through them zeroes NaNs too."""
# torch.compile, FSDP and activation checkpointing add these to the names of parameters.
_WRAPPED = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.|$)")


@dataclass(frozen=True)
class Matrix:
    """A parameter of two dimensions or more, or one that was asked for.

    Attributes:
        name: first name of the parameter in the unwrapped model.
        tensor: the parameter.
        fan_in, fan_out: inputs and outputs of one unit, kernel positions included.
        dense: why it stays dense; None if it is prunable.
        asked: whether the user asked for it to stay dense.
    """

    name: str
    tensor: Tensor
    fan_in: int
    fan_out: int
    dense: str | None = None
    asked: bool = False


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, torch.compile or AveragedModel."""
    while True:
        if isinstance(model, _WRAPPERS):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def canonical(name: str) -> str:
    """Return a parameter's name without the parts that wrappers of its modules added."""
    return _WRAPPED.sub("", name).removeprefix(".")


def parameters_by_name(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters by canonical name; a parameter with several names is listed under each.

    Raises:
        UserError: the model is not a torch module.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"the model, a torch module, comes first; got {type(model).__name__}")
    named = unwrapped(model).named_parameters(remove_duplicate=False)
    return {canonical(name): parameter for name, parameter in named}


def matrices(model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Matrix]:
    """List the matrices and kernels of a model in its own order, prunable or not, each parameter once.

    A computed weight is never read, since that would advance the power iteration of spectral_norm. The parameters that
    it is computed from are listed, such as `weight_v` or `parametrizations.weight.original1` of weight_norm.

    Args:
        model: model to prune, wrapped or not.
        include: shell patterns of names of parameters to prune, whatever module they belong to.
        exclude: shell patterns of names of parameters to leave dense, also where `include` matches.

    Raises:
        UserError: a pattern matches no parameter's name, a pattern of `include` matches no parameter that can be
            pruned, or a parameter has no shape yet.
    """
    include, exclude = ([given] if isinstance(given, str) else given for given in (include, exclude))
    named = parameters_by_name(model)
    for pattern in (*include, *exclude):
        if not _any(named, [pattern]):
            raise UserError(f"no parameter's name matches {pattern!r}; they are {', '.join([*named][:3])}, ...")
    names: dict[Tensor, list[str]] = {}
    for name, parameter in named.items():
        names.setdefault(parameter, []).append(name)
    model = unwrapped(model)
    embedded = {
        _key(weight)
        for module in model.modules()
        if isinstance(module, _EMBEDDINGS)
        for weight in module.parameters(recurse=False)
    }
    found: dict[Tensor, Matrix] = {}
    for path, module in model.named_modules():
        for short, tensor in module.named_parameters(recurse=False):
            name = canonical(f"{path}.{short}" if path else short)
            if isinstance(tensor, nn.UninitializedParameter):
                raise UserError(
                    f"layer {path or type(module).__name__} has no shape yet (a lazy layer); "
                    "run a batch through the model first"
                )
            wanted = _any(names[tensor], include)
            if (tensor.dim() > 1 or wanted) and tensor.numel() and tensor not in found:
                excluded = _any(names[tensor], exclude)
                refused = "excluded" if excluded else _refusal(module, short, tensor, wanted, embedded)
                found[tensor] = Matrix(name, tensor, *_fans(module, tensor), refused, excluded)
    for pattern in include:
        matched = [matrix for matrix in found.values() if _any(names[matrix.tensor], [pattern])]
        if matched and not any(matrix.dense is None or matrix.asked for matrix in matched):
            raise UserError(f"include={pattern!r} finds nothing to prune: {matched[0].name} is {matched[0].dense}")
    return list(found.values())


def _refusal(module: nn.Module, short: str, tensor: Tensor, wanted: bool, embedded: set[object]) -> str | None:
    """Return why a tensor stays dense, None if it is prunable."""
    if not tensor.is_floating_point():
        return f"{str(tensor.dtype).removeprefix('torch.')}, not real floating-point numbers"
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted; prune the model before torch.jit.script"
    if getattr(module, "sparse", False) and isinstance(module, _EMBEDDINGS):
        return "an embedding with sparse gradients; make it with sparse=False"
    if wanted:
        return None
    if _key(tensor) in embedded:
        return "an embedding, or tied to one"
    if any(isinstance(module, kinds) and re.fullmatch(names, short) for kinds, names in PRUNABLE.items()):
        return None
    if short == "weight" and is_transposed(module):
        return None
    return f"a parameter of {type(module).__name__}"


def refuse_aliases(pruned: Collection[Tensor], model: nn.Module) -> None:
    """Refuse a weight that shares memory with another Parameter: its gradient and its mask would miss that Parameter.

    Raises:
        UserError: two Parameters share memory (names both).
    """
    pruned = {*pruned}
    spans = [(*_span(parameter), name, parameter) for name, parameter in parameters_by_name(model).items()]
    end, before, last = 0, "", None
    for start, stop, name, parameter in sorted(spans, key=lambda span: span[:2]):
        if start < min(end, stop) and parameter is not last and not pruned.isdisjoint({parameter, last}):
            raise UserError(
                f"{before} and {name} are two Parameters in one memory, so a mask of one would miss the other; "
                "make them one Parameter, or exclude both"
            )
        if stop > end:
            end, before, last = stop, name, parameter


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return the first address of a tensor and the one after its last; an empty span if it has gaps or no memory."""
    part = local(tensor)
    dense = part.numel() == 1 + sum((size - 1) * stride for size, stride in zip(part.shape, part.stride(), strict=True))
    start = part.data_ptr()
    return start, start + dense * bool(start) * part.nbytes


def _fans(module: nn.Module, tensor: Tensor) -> tuple[int, int]:
    """Return fan-in and fan-out like `torch.nn.init.kaiming_normal_`, swapped for a transposed matrix."""
    if tensor.dim() < 2:
        return 1, 1
    kernel = math.prod(tensor.shape[2:])
    fans = tensor.shape[1] * kernel, tensor.shape[0] * kernel
    return fans[::-1] if is_transposed(module) else fans


def is_transposed(module: nn.Module) -> bool:
    """Return True if a module is Hugging Face's Conv1D, a linear layer with a weight of (inputs, outputs)."""
    weight = module._parameters.get("weight") if type(module).__name__ == "Conv1D" else None
    return weight is not None and weight.dim() == 2 and getattr(module, "nf", None) == weight.shape[1]


def _key(tensor: Tensor) -> object:
    """Return a value that two parameters on one storage share."""
    return id(tensor) if tensor.is_meta else (local(tensor).data_ptr(), tensor.numel())


def _any(names: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def is_sharded(tensor: Tensor) -> bool:
    """Return True if a tensor is split over processes, a DTensor as FSDP2 makes them."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Any) -> Tensor:
    """Return the part of a tensor that this process holds, on the same storage."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return part


def local_part(whole: Tensor, like: Any) -> Tensor:
    """Return the part of a tensor, which every process has whole, that corresponds to `local(like)`, on its device."""
    if not is_sharded(like):
        return whole.to(like.device)
    from torch.distributed.tensor import distribute_tensor  # slow to import, and seldom needed

    # Every process has the same mask, so nothing has to be sent.
    own = whole.to(local(like).device)
    return local(distribute_tensor(own, like.device_mesh, like.placements, src_data_rank=None))


@torch.no_grad()
def clear(tensor: Tensor, kept: Tensor) -> None:
    """Set a tensor to zero in place, also NaNs, where the local part of a mask keeps nothing."""
    part = local(tensor)
    part.view(INTEGERS[part.element_size()]).mul_(kept)  # on a CPU ten times as fast as masked_fill_
