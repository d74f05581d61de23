"""How well an order mixes: the composition of its batches beside that of a full shuffle."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from autosparse.store.order import Order


def dispersion(order: Order, kind: Callable[[NDArray[np.int64]], NDArray[np.int64]], batches: int = 16) -> float:
    """How much more the batches of an epoch differ in composition than those of a full shuffle.

    Pearson's chi-square of a batch's counts against those expected, over its degrees of freedom, mean over some batches
    evenly spread: 1 for a full shuffle; more where batches are clumped, less where they are stratified.

    Args:
        order: of one store.
        kind: flat indices (B,) to numbers of classes (B,), such as layer, label or a bin of the position.
        batches: how many are looked at.
    """
    every = np.linspace(0, order.batches - 1, min(batches, order.batches)).astype(int)
    whole = np.bincount(kind(np.arange(order.sizes[0])))
    there = whole > 0
    expected = whole[there] / order.sizes[0] * order.size
    squares = []
    for batch in every:
        counts = np.bincount(kind(order.indices(int(batch))[1]), minlength=len(whole))[there]
        squares.append(((counts - expected) ** 2 / expected).sum() / (there.sum() - 1))
    return float(np.mean(squares))
