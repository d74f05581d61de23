"""Safetensors files with a digest of their tensors."""

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
    """Write tensors and metadata, atomically and durably."""
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(contiguous, temporary, metadata={**about, _DIGEST: _digest(contiguous)})


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a file.

    Raises:
        ValueError: the tensors are not those that were written.
    """
    with safe_open(path, framework="pt") as file:
        about: dict[str, str] = file.metadata() or {}
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    if about.pop(_DIGEST, None) != _digest(tensors):
        raise ValueError("its content is not what was written")
    return tensors, about


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        content: Any = tensors[name].reshape(-1).view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()
