"""Masks of runs as the report shows them: counts and small pictures of layers, and what two masks keep in common."""

import base64
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from autosparse.cluster.records import say
from autosparse.errors import UserError
from autosparse.jobs.prune import MASK
from autosparse.pruning import Mask
from autosparse.store import TripleStore

_MOST = 200  # masks of a page, whose pairs need a number each
_SAMPLE = 2**22  # positions at which the masks of a larger network are compared
_BYTES = 300_000  # of all pictures of a page
_SIDES = (4, 32)  # cells of the smallest and the largest side of a picture


def describe_masks(folders: Mapping[str, Path]) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Return the masks of complete runs, 200 at most, and what they keep in common, for the page's script.

    Args:
        folders: folders of the runs, by name.

    Returns:
        For each run: the number of its `network` in the list, its `row` there, and the `layers`, see `_picture`. For
        each network: the name, shape and size of its `layers`; `shared`, whose row i has the number of weights that
        mask i and each earlier one both keep; and `sampled`, true if these were counted at 2^22 random positions.
    """
    if len(folders) > _MOST:
        say(f"the page has the masks of {_MOST} runs; it has none of the other {len(folders) - _MOST}")
    masks, networks, bits = dict[str, dict[str, Any]](), list[dict[str, Any]](), list[list[NDArray[np.uint8]]]()
    for name, folder in [*folders.items()][:_MOST]:
        try:
            mask = Mask.load(folder / MASK) if (folder / MASK).is_file() else _last(folder)
        except UserError as error:
            say(f"no picture of a mask: {error}")
            continue
        layers = [{"name": each.name, "shape": each.shape, "size": each.size} for each in mask.layout.layers]
        number = next((k for k, network in enumerate(networks) if network["layers"] == layers), len(networks))
        if number == len(networks):
            networks.append({"layers": layers, "shared": [], "sampled": mask.layout.size > _SAMPLE})
            bits.append([])
        kept = mask.kept.numpy()
        if mask.layout.size > _SAMPLE:
            kept = kept[np.random.default_rng(0).integers(mask.layout.size, size=_SAMPLE)]
        packed, times = np.packbits(kept), mask.layout.size / len(kept)
        counts = [int(np.bitwise_count(packed & other).sum()) for other in bits[number]]
        networks[number]["shared"].append([round(times * count) for count in counts])
        side = min(max(isqrt(_BYTES // (min(len(folders), _MOST) * len(layers))), _SIDES[0]), _SIDES[1])
        pictures = [_picture(part, side) for part in mask.layout.unflatten(mask.kept).values()]
        masks[name] = {"network": number, "row": len(bits[number]), "layers": pictures}
        bits[number].append(packed)
    return masks, networks


def _last(folder: Path) -> Mask:
    """Return the last mask of a run of IRP."""
    store = TripleStore.open(folder)
    return store.mask(store.iterations)


def _picture(kept: Tensor, side: int) -> dict[str, Any]:
    """Return the number of `kept` weights of a layer, and its density over outputs and inputs as a small picture.

    The picture has `rows` and `columns`, at most `side` each, and one byte per cell in base64: 255 for the density
    `highest`, 0 for 0.
    """
    matrix = kept.reshape(len(kept), -1).float()
    rows, columns = (min(side, length) for length in matrix.shape)
    cells = adaptive_avg_pool2d(matrix[None], (rows, columns))[0].numpy()
    highest = float(cells.max())
    shades = np.rint(255 * cells / (highest or 1.0)).astype(np.uint8)
    return {
        "kept": int(kept.count_nonzero()),
        "rows": rows,
        "columns": columns,
        "cells": base64.b64encode(shades.tobytes()).decode(),
        "highest": highest,
    }
