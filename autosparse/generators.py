"""The global random generators that users' code draws from: torch's, numpy's and Python's."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed the CPU's and one device's generator; `torch.manual_seed` notes a stack trace for each device not in use."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def start_generators(seed: int) -> None:
    """Seed all global generators."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002
    random.seed(seed)


@contextmanager
def restoring_generators() -> Iterator[None]:
    """Restore all global generators when the block ends."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    numpys, pythons = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        np.random.set_state(numpys)  # noqa: NPY002
        random.setstate(pythons)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all global generators for the block, and restore them afterwards."""
    with restoring_generators():
        start_generators(seed)
        yield
