"""Files of pruned models that hold only the kept weights.

A file is safetensors. For a pruned tensor NAME it has `NAME:values`, the kept weights in the order of the flat index,
and their positions: `NAME:bits` (uint8, one bit per weight, the first the highest) or `NAME:positions` (int32),
whichever is smaller. All other tensors of the state dict are whole. The metadata has the layout and the names of shared
tensors.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from autosparse.errors import UserError
from autosparse.files import replacing
from autosparse.pruning.layout import Layout
from autosparse.pruning.prunable import canonical, unwrapped

_FORMAT = "autosparse compressed 1"
_VALUES, _BITS, _POSITIONS = ":values", ":bits", ":positions"


def compress(layout: Layout, kept: Tensor, model: nn.Module, path: str | Path) -> None:
    """Write a compressed model; see `Mask.compress`."""
    layout.weights(model)  # the layouts must agree
    masks = layout.unflatten(kept.cpu())
    written: dict[str, Tensor] = {}
    first: dict[object, str] = {}
    aliases: dict[str, str] = {}
    state = {canonical(name): value for name, value in unwrapped(model).state_dict().items()}
    for name in sorted(state, key=lambda name: name not in masks):  # a tied weight is written under its masked name
        tensor = state[name]
        if not isinstance(tensor, Tensor):
            raise UserError(f"the model cannot be compressed: {name} is {type(tensor).__name__}, not a tensor")
        place = tensor.data_ptr(), tuple(tensor.shape), tensor.stride()
        if tensor.numel() and place in first:
            aliases[name] = first[place]
            continue
        first[place] = name
        if name in masks:
            written |= _packed(name, tensor.cpu().reshape(-1), masks[name].reshape(-1))
        else:
            written[name] = tensor.cpu().clone(memory_format=torch.contiguous_format)
    metadata = {"format": _FORMAT, "layout": json.dumps(layout.to_json()), "aliases": json.dumps(aliases)}
    with replacing(Path(path)) as temporary:
        save_file(written, temporary, metadata=metadata)


def restore(model: nn.Module, path: str | Path) -> tuple[Layout, Tensor]:
    """Load a compressed model, see `Mask.restore`; return the layout and the kept weights, bool (P,) on the CPU."""
    if not Path(path).is_file():
        raise UserError(f"no compressed model at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise UserError(f"{path} is not a compressed model; Mask.load reads masks")
            layout = Layout.from_json(json.loads(metadata["layout"]))
            kept = torch.zeros(layout.size, dtype=torch.bool, device="cpu")
            state = _unpacked(file, layout, kept)
            state |= {name: state[first] for name, first in json.loads(metadata["aliases"]).items()}
    except UserError:
        raise
    except Exception as error:  # safetensors has its own error type, JSON and the table theirs
        raise UserError(f"{path} is damaged: {error}") from error
    own = unwrapped(model).state_dict()
    names = {canonical(name): name for name in own}
    for name in {**names, **state}:
        theirs = _kind(state[name]) if name in state else "not in the file"
        ours = _kind(own[names[name]]) if name in names else "not in the model"
        if theirs != ours:
            raise UserError(f"{path} is of another model: {name} is {theirs} there and {ours} here")
    unwrapped(model).load_state_dict({names[name]: tensor for name, tensor in state.items()})
    return layout, kept


def _packed(name: str, flat: Tensor, kept: Tensor) -> dict[str, Tensor]:
    values = {f"{name}{_VALUES}": flat[kept]}
    if 4 * len(values[f"{name}{_VALUES}"]) < len(flat) / 8 and len(flat) < 2**31:
        return {**values, f"{name}{_POSITIONS}": kept.nonzero().squeeze(1).int()}
    return {**values, f"{name}{_BITS}": torch.from_numpy(np.packbits(kept.numpy()))}


def _unpacked(file: Any, layout: Layout, kept: Tensor) -> dict[str, Tensor]:
    """Return the tensors of a file; set in `kept` the weights that it has."""
    names = set(file.keys())
    state = {}
    for layer in layout.layers:
        own = kept[layer.offset : layer.offset + layer.size]
        if f"{layer.name}{_POSITIONS}" in names:
            own[file.get_tensor(f"{layer.name}{_POSITIONS}").long()] = True
        else:
            bits = file.get_tensor(f"{layer.name}{_BITS}").numpy()
            own.copy_(torch.from_numpy(np.unpackbits(bits, count=layer.size).view(np.bool_)))
        values = file.get_tensor(f"{layer.name}{_VALUES}")
        if int(own.count_nonzero()) != len(values):
            raise ValueError(f"{len(values)} values of {layer.name} for {int(own.count_nonzero())} weights")
        flat = torch.zeros(layer.size, dtype=values.dtype, device="cpu")
        state[layer.name] = flat.masked_scatter_(own, values).view(layer.shape)
        names -= {f"{layer.name}{end}" for end in (_VALUES, _BITS, _POSITIONS)}
    return state | {name: file.get_tensor(name) for name in names}


def _kind(value: Any) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
