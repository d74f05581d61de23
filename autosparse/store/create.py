"""An empty store: the metadata of its arrays, and a ledger that names nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from autosparse.errors import StoreError
from autosparse.pruning import Layout
from autosparse.store.schema import Grid, Ledger, attributes, entry, metadata_of, survival_dtype
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
    plain, packed = Crc32cCodec(), ZstdCodec(level=1, checksum=True)
    survival = survival_dtype(iterations)
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
    # NaN and an impossible count: what was never written cannot pass for data
    arrays: list[tuple[str, Any, Any, Any, dict[str, Any]]] = [
        ("theta", "f4", np.nan, plain, flat),
        ("grad", "f4", np.nan, plain, flat),
        ("survival", survival, np.iinfo(survival).max, [packed, plain], flat),
        ("alive", "u1", 0, [packed, plain], rows),
        *((column, "f4", np.nan, plain, values) for column in columns),
    ]
    for name, kind, fill, codecs, shape in arrays:
        group.create_array(name, dtype=kind, fill_value=fill, compressors=codecs, **shape)
    metadata = {name: encoded[name].to_bytes() for name in names}
    for name, content in metadata.items():
        storage.write(name, memoryview(content), replace=True)
    Ledger({name: entry(content) for name, content in metadata.items()}).write(storage)
