"""An empty store: the metadata of its arrays, and a ledger that names nothing else."""

from collections.abc import Sequence
from typing import Any

import zarr
from zarr.abc.buffer import Buffer
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore

from autosparse.errors import StoreError
from autosparse.pruning import Layout
from autosparse.store.schema import Grid, Ledger, attributes, entry, forms, metadata_of
from autosparse.store.storage import Storage, is_temporary


def create(
    storage: Storage,
    layout: Layout,
    iterations: int,
    run: dict[str, Any],
    shard: int | None = None,
    columns: Sequence[str] = (),
) -> None:
    """Create a store where there is none; what a killed `create` left is replaced.

    Args:
        storage: has no ledger.
        layout, iterations, run, shard, columns: see `TripleWriter.open`.

    Raises:
        StoreError: the storage holds something else, or the size of a shard is not valid.
    """
    names = metadata_of(columns)
    if not all(name in names or is_temporary(name) for name in storage.sizes()):
        raise StoreError(f"{storage} is not empty and no triple store; choose another path")
    grid = Grid.of(layout.size, shard)
    encoded: dict[str, Buffer] = {}
    about = attributes(layout, iterations, run, columns)
    group = zarr.create_group(MemoryStore(encoded), zarr_format=3, attributes=about)
    # with names of dimensions xarray opens a store; those of one name are as long as each other
    flat: dict[str, Any] = {
        "shape": (grid.size,),
        "chunks": (grid.chunk,),
        "shards": (grid.shard,),
        "dimension_names": ("parameter",),
    }
    rows: dict[str, Any] = {
        "shape": (iterations, -(-grid.size // 8)),
        "chunks": (1, grid.chunk // 8),
        "shards": (1, grid.shard // 8),
        "dimension_names": ("iteration", "byte"),
    }
    values = {
        "shape": (iterations, grid.size),
        "chunks": (1, grid.chunk),
        "shards": (1, grid.shard),
        "dimension_names": ("iteration", "survivor"),
    }
    shapes = {"theta": flat, "grad": flat, "survival": flat, "alive": rows}
    for name, form in forms(grid, iterations, columns).items():
        shape = shapes.get(name, values)
        group.create_array(name, dtype=form.dtype, fill_value=form.fill, compressors=Crc32cCodec(), **shape)
    metadata = {name: encoded[name].to_bytes() for name in names}
    for name, content in metadata.items():
        storage.write(name, content)
    Ledger({name: entry(content) for name, content in metadata.items()}).write(storage)
