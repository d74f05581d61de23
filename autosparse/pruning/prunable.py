"""Which parameters of a model can be pruned: its matrices and kernels that multiply, told by their names."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim.swa_utils import AveragedModel

from autosparse.errors import UserError

# module -> the parameters of it that multiply
PRUNABLE: dict[type[nn.Module] | tuple[type[nn.Module], ...], str] = {
    (nn.Linear, nn.Bilinear): "weight",
    (nn.Conv1d, nn.Conv2d, nn.Conv3d): "weight",
    (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d): "weight",
    nn.MultiheadAttention: "(in|q|k|v)_proj_weight",
    (nn.RNNBase, nn.RNNCellBase): "weight_(ih|hh|hr).*",
}
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_WRAPPERS = (DataParallel, DistributedDataParallel, AveragedModel)
# what torch.compile, FSDP and activation checkpointing put into the names of what they wrap
_WRAPPED = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.|$)")


@dataclass(frozen=True)
class Matrix:
    """A parameter of two dimensions or more, or one that was asked for.

    Attributes:
        name: of the parameter in the model itself, without what wrappers add.
        tensor: the parameter; what it is computed to be, where it is computed from others.
        fan_in, fan_out: inputs and outputs of one unit, kernel positions included.
        dense: why it stays dense; None if it is prunable.
        asked: whether the user has asked for that.
    """

    name: str
    tensor: Tensor
    fan_in: int
    fan_out: int
    dense: str | None = None
    asked: bool = False


def unwrapped(model: nn.Module) -> nn.Module:
    """The model in its wrappers: DistributedDataParallel, torch.compile, AveragedModel."""
    while True:
        if isinstance(model, _WRAPPERS):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def canonical(name: str) -> str:
    """A parameter's name without what wrappers of its modules have added."""
    return _WRAPPED.sub("", name).removeprefix(".")


def parameters_by_name(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by canonical name; one that has several names is there under each."""
    named = unwrapped(model).named_parameters(remove_duplicate=False)
    return {canonical(name): parameter for name, parameter in named}


def matrices(model: nn.Module, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> list[Matrix]:
    """The matrices and kernels of a model in its own order, prunable or not, each storage once.

    Args:
        model: any module, in wrappers or not.
        include: shell patterns of the names of parameters that are prunable, whatever module they belong to.
        exclude: of those that are not; stronger than `include`.

    Raises:
        UserError: a pattern that no parameter's name matches, or a parameter that has no shape yet.
    """
    model = unwrapped(model)
    _check_patterns(parameters_by_name(model), (*include, *exclude))
    embedded = {
        _key(module.weight)
        for module in model.modules()
        if isinstance(module, _EMBEDDINGS) and isinstance(module.weight, nn.Parameter)
    }
    found: dict[object, Matrix] = {}
    for path, module in model.named_modules():
        for short, tensor in _tensors(module):
            name = canonical(f"{path}.{short}" if path else short)
            if isinstance(tensor, nn.UninitializedParameter):
                raise UserError(
                    f"layer {path or type(module).__name__} has no shape yet (a lazy layer); "
                    "run a batch through the model first"
                )
            wanted = _any(name, include)
            if (tensor.dim() > 1 or wanted) and tensor.numel() and _key(tensor) not in found:
                refused, asked = _refusal(name, module, short, tensor, wanted, _any(name, exclude), embedded)
                found[_key(tensor)] = Matrix(name, tensor, *_fans(module, tensor), refused, asked)
    return list(found.values())


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a module has by itself: its parameters, and a weight that is computed from them."""
    if isinstance(module, ParametrizationList):  # the weight that is computed stands for them
        return
    yield from module.named_parameters(recurse=False)
    if any(isinstance(module, kinds) for kinds in PRUNABLE) and "weight" not in module._parameters:
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor):
            yield "weight", weight


def _refusal(
    name: str, module: nn.Module, short: str, tensor: Tensor, wanted: bool, excluded: bool, embedded: set[object]
) -> tuple[str | None, bool]:
    """Why a tensor stays dense, None if it does not, and whether that was asked for."""
    if excluded:
        return "excluded", True
    if not isinstance(tensor, nn.Parameter):
        return "computed from others (torch.nn.utils.prune or parametrize)", False
    if not tensor.is_floating_point():
        return f"{str(tensor.dtype).removeprefix('torch.')}, not real floating-point numbers", False
    if wanted:
        return None, False
    if _key(tensor) in embedded:
        return "an embedding, or tied to one", False
    if any(isinstance(module, kinds) and re.fullmatch(names, short) for kinds, names in PRUNABLE.items()):
        return None, False
    if short == "weight" and is_transposed(module):
        return None, False
    return f"a parameter of {type(module).__name__}", False


def _fans(module: nn.Module, tensor: Tensor) -> tuple[int, int]:
    """As `torch.nn.init.kaiming_normal_` counts them, a transposed matrix the other way round."""
    if tensor.dim() < 2:
        return 1, 1
    kernel = math.prod(tensor.shape[2:])
    fans = tensor.shape[1] * kernel, tensor.shape[0] * kernel
    return fans[::-1] if is_transposed(module) else fans


def is_transposed(module: nn.Module) -> bool:
    """Whether a module is Hugging Face's Conv1D, a linear layer whose weight is (inputs, outputs)."""
    weight, outputs = getattr(module, "weight", None), getattr(module, "nf", None)
    return (
        type(module).__name__ == "Conv1D"
        and isinstance(weight, Tensor)
        and weight.dim() == 2
        and outputs == weight.shape[1]
    )


def _key(tensor: Tensor) -> object:
    """What two parameters on one storage share."""
    if tensor.is_meta or isinstance(tensor, nn.UninitializedParameter) or not tensor.numel():
        return id(tensor)
    local = getattr(tensor, "_local_tensor", tensor)  # of a DTensor
    return (local.data_ptr(), tensor.numel()) if isinstance(tensor, nn.Parameter) else id(tensor)


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_patterns(names: dict[str, nn.Parameter], patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join([*names][:3])
            raise UserError(f"no parameter's name matches {pattern!r}; they are {some}, ...")


def total(found: list[Matrix]) -> int:
    """The number of elements of matrices."""
    return sum(matrix.tensor.numel() for matrix in found)
