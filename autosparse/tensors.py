"""Tensors by name in a safetensors file that carries a digest of them, for what a run writes and reads again."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from autosparse.files import replacing

_DIGEST = "digest"


def save(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write tensors and some words about them; atomic and durable."""
    there = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(there, temporary, metadata={**about, _DIGEST: _digest(there)})


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, and the words about them; one from before there was a digest is taken as it is.

    Raises:
        ValueError: the tensors are not those that were written.
    """
    with safe_open(path, framework="pt") as file:
        about: dict[str, str] = file.metadata() or {}
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    if about.pop(_DIGEST, None) not in (None, _digest(tensors)):
        raise ValueError("its content is not what was written")
    return tensors, about


def _digest(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        found.update(name.encode())
        content: Any = tensors[name].reshape(-1).view(torch.uint8).numpy()
        found.update(content)
    return found.hexdigest()
