"""A store at another storage, or with other shards."""

from autosparse.errors import StoreError
from autosparse.store.reader import TripleStore
from autosparse.store.schema import LEDGER
from autosparse.store.storage import storage_of
from autosparse.store.writer import Committed, TripleWriter


def copy(store: TripleStore, to: str, shard: int | None = None) -> TripleStore:
    """Write a complete store anew; one that was interrupted goes on.

    With shards of the same size the copy has the same bytes and fingerprint.

    Args:
        store: a complete one.
        to: a folder or an `s3://` URL.
        shard: elements a shard, as in the store if not given.

    Raises:
        StoreError: there is something else at the other storage, or a complete store.
    """
    shard = shard or store.grid.shard
    if storage_of(to).size(LEDGER) is None:
        TripleWriter.create(to, store.layout, store.iterations, store.run, shard)
    writer = TripleWriter.resume(to)
    there = writer.store
    if (there.layout, there.iterations, there.run) != (store.layout, store.iterations, store.run):
        raise StoreError(f"{to} is an unfinished copy of another store; choose another place")
    if writer.grid.shard != shard:
        raise StoreError(
            f"{to} is an unfinished copy with shards of {writer.grid.shard}; go on with that, or elsewhere"
        )
    TripleWriter.clean(to)
    if writer.committed < 0:
        files: Committed = {}
        for span in writer.grid.owned(0, 1):
            files |= writer.write("theta", span, store.theta(span)) | writer.write("grad", span, store.grad(span))
        writer.commit(files, store.densities[0])
    for i in range(writer.committed + 1, store.iterations + 1):
        writer.commit(writer.write_alive(i, store.mask(i)), store.densities[i])
    if not writer.survival_committed:
        writer.commit(writer.write_survival())
    writer.finish()
    return TripleStore.open(to)
