"""Is a store whole? Reads every byte, and compares what the arrays say of each other."""

import numpy as np

from autosparse.errors import StoreError
from autosparse.pruning.schedule import keep_count
from autosparse.store.reader import TripleStore


def problems(store: TripleStore) -> list[str]:
    """Everything wrong with a store, one line each, none where it is whole.

    Checked: every shard against the ledger; every chunk's checksum; that survival is the sum of the masks, the masks
    are nested and hold as many parameters as the ledger's densities say; that floats are finite.
    """
    found = []
    for name in store.files:
        try:
            store.check(name)
        except StoreError as error:
            found.append(str(error))
    if found or not store.complete:
        return found

    counts = np.zeros(store.iterations + 1, np.int64)
    for shard in (store.grid.indices(k) for k in range(store.grid.shards)):
        survival = np.zeros(shard.stop - shard.start, np.int64)
        before = store.alive(0, shard)
        for i in range(store.iterations + 1):
            alive = store.alive(i, shard)
            if (alive & ~before).any():
                found.append(f"{store.storage}: mask {i} revives parameters in {shard.start}:{shard.stop}")
            counts[i] += alive.sum()
            survival += alive if i else 0
            before = alive
        if not np.array_equal(survival, store.survival(shard)):
            found.append(f"{store.storage}: survival is not the sum of the masks in {shard.start}:{shard.stop}")
        for name, values in (("theta", store.theta(shard)), ("grad", store.grad(shard))):
            if not np.isfinite(values).all():
                found.append(f"{store.storage}: {name} is not finite in {shard.start}:{shard.stop}")
    for name in store.columns:
        for i in range(store.iterations):
            if not np.isfinite(store.probe(name, i)).all():
                found.append(f"{store.storage}: {name} is not finite in iteration {i}")
    for i, density in enumerate(store.densities):
        if counts[i] != keep_count(density, len(store)):
            found.append(
                f"{store.storage}: mask {i} keeps {counts[i]}, the ledger says {keep_count(density, len(store))}"
            )
    return found
