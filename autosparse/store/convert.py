"""A store of an earlier schema, written again."""

from typing import Any

import numpy as np
import torch
import zarr

from autosparse.errors import StoreError, UserError
from autosparse.pruning import Layout, Mask
from autosparse.store.reader import TripleStore
from autosparse.store.schema import MARKER, Ledger
from autosparse.store.storage import storage_of
from autosparse.store.writer import TripleWriter


def convert(path: str, to: str) -> TripleStore:
    """Write a complete store of an earlier schema by this version's; zarr reads it.

    Args:
        path: of the store, or of the run that holds it.
        to: a folder or an `s3://` URL.

    Raises:
        StoreError: no store, one that is not complete, or one that zarr cannot read.
    """
    storage = storage_of(path)
    nested = storage.child("triples.zarr")
    storage = nested if nested.size("zarr.json") is not None else storage
    if storage.size(MARKER) is None:
        raise StoreError(f"no complete store at {storage}; only complete ones are converted")
    if str(storage_of(to)) == str(storage):
        raise StoreError(f"{storage} cannot be converted onto itself; give another folder")
    sizes = storage.sizes()
    for name, committed in Ledger.read(storage).files.items():  # zarr would read a missing shard as its fill value
        if sizes.get(name) != committed["size"]:
            raise StoreError(f"{storage}: {name} is missing or cut; run the IRP again")
    try:
        group: Any = zarr.open_group(storage.readable(), mode="r", zarr_format=3)
        about = dict(group.attrs)
        layout, iterations = Layout.from_json(about["layout"]), int(about["iterations"])
        columns = list(about.get("columns", []))
        writer = TripleWriter.open(to, layout, iterations, about["run"], columns=columns)
        if writer.committed < 0:
            writer.commit_features(*(lambda shard, name=name: group[name][shard] for name in ("theta", "grad")))
        alive = layout.size
        for i in range(1, iterations + 1):
            bits = group["alive"][i - 1]
            kept = torch.from_numpy(np.unpackbits(bits, count=layout.size, bitorder="little").view(np.bool_))
            if i > writer.committed:
                probe = {name: torch.from_numpy(group[name][i - 1, :alive]) for name in columns}
                writer.commit_alive(i, Mask(layout, kept), probe)
            alive = int(kept.sum())
    except (StoreError, UserError):  # of the other folder
        raise
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise StoreError(f"{storage} cannot be converted ({error}); run the IRP again") from error
    writer.finish()
    return TripleStore.open(to)
