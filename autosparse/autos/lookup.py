"""Where parameters fall in a table over warped axes, and what they read there; compiled where that pays."""

import functools
import itertools
import math
import os
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

Axes = Sequence[tuple[Tensor, Tensor]]
Lookup = Callable[[Sequence[Tensor], Axes, Tensor], tuple[Tensor, Tensor]]
_WORTH_COMPILING = 1 << 26  # parameters: compiling takes seconds, plain PyTorch about two for so many on two cores


def asinh(x: Tensor) -> Tensor:
    """Asinh in terms that compilers have in vectors; exact to 1e-7 in absolute terms, infinite from 1e19 on."""
    return torch.copysign(torch.log(x.abs() + torch.sqrt(x * x + 1)), x)


def lookup(inputs: Sequence[Tensor], axes: Axes, table: Tensor) -> tuple[Tensor, Tensor]:
    """Read a table, linear in every axis between its nodes and constant outside; NaN reads as NaN.

    Args:
        inputs: float32 (B,), one an axis.
        axes: for each axis float32 (3,): its gain, the lowest tabulated coordinate asinh(gain * input) and the warp
            pieces per unit of that coordinate; and its warp, float32, from 0 to 1.
        table: float32, contiguous, a dimension an axis.

    Returns:
        float32 (B,), and bool (B,), whether a coordinate lies outside what is tabulated.
    """
    index, outside, fractions = torch.zeros_like(inputs[0], dtype=torch.int32), torch.zeros_like(inputs[0]) > 0, []
    steps = [math.prod(table.shape[dim + 1 :]) for dim in range(table.dim())]
    for value, (constants, warp), nodes, step in zip(inputs, axes, table.shape, steps, strict=True):
        gain, low, rate = constants.unbind()
        position = (asinh(gain * value) - low) * rate
        pieces = len(warp) - 1
        outside = outside | (position < 0) | (position > pieces)
        piece, fraction = _cell(position, pieces)
        start = warp[piece]
        cell, fraction = _cell((start + fraction * (warp[piece + 1] - start)) * (nodes - 1), nodes - 1)
        index = index + cell * step
        fractions.append(fraction)
    flat = table.reshape(-1)
    corners = [flat[index + sum(corner)] for corner in itertools.product(*((0, step) for step in steps))]
    for fraction in reversed(fractions):
        corners = [low + fraction * (high - low) for low, high in zip(corners[::2], corners[1::2], strict=True)]
    return corners[0], outside


def _cell(position: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """The cell that a position falls in, int32, and how far into it."""
    position = position.clamp(0, cells)
    cell = position.int().clamp(0, cells - 1)  # NaN, too, finds one
    return cell, position - cell


def make_lookup(device: torch.device, size: int) -> tuple[Lookup, int]:
    """`lookup` for so many parameters, and how many of them to give it at a time.

    Compiled on a CPU where they are many and there is a compiler for C++; on a GPU plain PyTorch is fast enough that
    compiling never pays. The number bounds the memory, of which a compiled lookup needs little beside its result.
    """
    if device.type != "cpu":
        return lookup, 1 << 21
    if size < _WORTH_COMPILING or not has_compiler():
        return lookup, 1 << 17
    return _compiled(), 1 << 22


def has_compiler() -> bool:
    """Whether `torch.compile` finds what it needs on a CPU: a C++ compiler and Python's headers."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return shutil.which(os.environ.get("CXX", "g++")) is not None and headers.is_file()


@functools.cache
def _compiled() -> Lookup:
    # the indices are clamped; checking them again costs an eighth
    options: dict[str, bool | int | str | Callable[..., object]] = {"assert_indirect_indexing": False}
    return torch.compile(lookup, dynamic=True, options=options)
