"""Verification of a whole store: every byte is read, and the arrays are compared with each other."""

import numpy as np

from autosparse.errors import StoreError
from autosparse.pruning.schedule import keep_count
from autosparse.store.reader import TripleStore
from autosparse.store.schema import METADATA


def problems(store: TripleStore) -> list[str]:
    """Return all problems of a store, one line each.

    Every file is compared with the ledger, every chunk with its checksum. In a complete store, survival must be the sum
    of the masks, the masks nested and of the densities in the ledger, and all floats finite.
    """
    lines = []
    for name in store.ledger.files:
        if name.endswith(METADATA):  # compared when the store was opened
            continue
        try:
            store.check(name)
        except StoreError as error:
            lines.append(str(error))
    if lines or not store.complete:
        return lines

    counts = np.zeros(store.iterations + 1, np.int64)
    for shard in map(store.grid.indices, range(store.grid.shards)):
        place = f"in {shard.start}:{shard.stop}"
        survival = np.zeros(shard.stop - shard.start, np.int64)
        before = store.alive(0, shard)
        for i in range(store.iterations + 1):
            alive = store.alive(i, shard)
            if (alive & ~before).any():
                lines.append(f"{store.storage}: mask {i} revives parameters {place}")
            counts[i] += alive.sum()
            survival += alive if i else 0
            before = alive
        if not np.array_equal(survival, store.survival(shard)):
            lines.append(f"{store.storage}: survival is not the sum of the masks {place}")
        for name, values in (("theta", store.theta(shard)), ("grad", store.grad(shard))):
            if not np.isfinite(values).all():
                lines.append(f"{store.storage}: {name} is not finite {place}")
    for name in store.columns:
        for i in range(store.iterations):
            if not np.isfinite(store.probe(name, i)).all():
                lines.append(f"{store.storage}: {name} is not finite in iteration {i}")
    for i, density in enumerate(store.densities):
        if counts[i] != (expected := keep_count(density, len(store))):
            lines.append(f"{store.storage}: mask {i} keeps {counts[i]}, the ledger says {expected}")
    return lines
