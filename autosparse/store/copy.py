"""A store at another storage, or with other shards."""

import torch

from autosparse.errors import UserError
from autosparse.store.reader import TripleStore
from autosparse.store.writer import TripleWriter


def copy(store: TripleStore, to: str, shard: int | None = None) -> TripleStore:
    """Rewrite a complete store; one that was interrupted goes on.

    With shards of the same size the copy has the same bytes and fingerprint.

    Args:
        store: a complete one.
        to: a folder or an `s3://` URL.
        shard: elements a shard, as in the store if not given.

    Raises:
        StoreError: there is something else at the other storage, or a complete store.
        UserError: there is an unfinished copy of another store, or with other shards.
    """
    writer = TripleWriter.open(
        to, store.layout, store.iterations, store.run, shard=shard or store.grid.shard, columns=store.columns
    )
    if writer.run != store.run:
        raise UserError(f"{to} is an unfinished copy of a run by other code; choose another folder")
    if writer.committed < 0:
        writer.commit_features(store.theta, store.grad, beside=store.beside)
    for i in range(writer.committed + 1, store.iterations + 1):
        probe = {name: torch.from_numpy(store.probe(name, i - 1)) for name in store.columns}
        writer.commit_alive(i, store.mask(i), probe)
    writer.finish()
    return TripleStore.open(to)
