"""The global random generators of torch, numpy and Python, which users' code draws from."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and one device; `torch.manual_seed` records a stack trace per unused device."""
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


def generator_states() -> tuple[Any, ...]:
    """Return the states of all global generators; equal states compare equal."""
    numpy: Any = np.random.get_state()  # noqa: NPY002
    kind, key, *rest = numpy
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    tensors = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
    return random.getstate(), (kind, key.tobytes(), *rest), [state.numpy().tobytes() for state in tensors]


def restore_generators(states: tuple[Any, ...]) -> None:
    """Set all global generators to the states that `generator_states` returned."""
    python, (kind, key, *rest), (cpu, *devices) = states
    random.setstate(python)
    np.random.set_state((kind, np.frombuffer(key, np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(torch.frombuffer(bytearray(cpu), dtype=torch.uint8))
    for device, state in enumerate(devices):
        torch.cuda.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8), device)


@contextmanager
def restoring_generators() -> Iterator[None]:
    """Restore all global generators when the block ends."""
    states = generator_states()
    try:
        yield
    finally:
        restore_generators(states)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all global generators for the block, and restore them afterwards."""
    with restoring_generators():
        start_generators(seed)
        yield


@contextmanager
def restoring_torch_generators(device: torch.device) -> Iterator[None]:
    """Restore the torch generators of the CPU and one device when the block ends."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
