"""Independent seeds for every purpose, made from one seed.

Two generators started from the same integer draw the same numbers: a random criterion would score a network by the
draws that made its weights.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from autosparse.errors import UserError


def stream(purpose: str, *position: int) -> int:
    """Return a seed in [0, 2^63), a function of a purpose and a position such as (seed, epoch, step)."""
    return int(streams(purpose, 1, *position)[0])


def streams(purpose: str, count: int, *position: int) -> NDArray[np.int64]:
    """Return `count` seeds like those of `stream`."""
    if min(position, default=0) < 0:
        raise UserError(f"seeds must not be negative, got {min(position)}")
    entropy = [zlib.crc32(purpose.encode()), len(position), *position]
    words = np.random.SeedSequence(entropy).generate_state(count, np.uint64)
    return (words >> np.uint64(1)).astype(np.int64)
