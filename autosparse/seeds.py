"""Seeds for every purpose out of one: streams that share a seed must not share their numbers.

Two generators started from the same integer draw the same numbers, so a random criterion would score a network by the
very draws that made its weights.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from autosparse.errors import UserError


def stream(purpose: str, *position: int) -> int:
    """A seed in [0, 2^63): a function of what it is for and of a position such as (seed, epoch, step)."""
    return int(streams(purpose, 1, *position)[0])


def streams(purpose: str, count: int, *position: int) -> NDArray[np.int64]:
    """`count` seeds as `stream` gives them, at once."""
    if min(position, default=0) < 0:
        raise UserError(f"seeds must not be negative, got {min(position)}")
    entropy = [zlib.crc32(purpose.encode()), len(position), *position]
    words = np.random.SeedSequence(entropy).generate_state(count, np.uint64)
    return (words >> np.uint64(1)).astype(np.int64)
