"""A store as one file for other tools: NumPy's .npz, Parquet or a compressed Zarr, written a window at a time."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.storage import ZipStore

from autosparse.errors import UserError, unknown
from autosparse.files import replacing
from autosparse.store.reader import TripleStore

_ARRAYS = ("theta", "grad", "survival")


def export(store: TripleStore, path: Path) -> None:
    """Write theta, grad and survival, and which layer each parameter is of.

    - `.npz`: arrays `theta`, `grad`, `survival` (P,); `layer_names` and `layer_sizes` (layers,), in the order of the
      parameters; `densities` (N + 1,).
    - `.parquet`: a row a parameter, columns `layer`, `theta`, `grad`, `survival`; densities and what made the store as
      JSON in the metadata, under `autosparse`. Needs pyarrow.
    - `.zarr.zip`: Zarr arrays `theta`, `grad`, `survival` (P,), compressed by Blosc; `layer_names`, `layer_sizes`,
      `densities` and what made the store are attributes of the group.

    The file is there whole or not at all.

    Raises:
        UserError: another ending, or pyarrow is not installed.
        StoreError: the store is damaged.
    """
    write = next((write for ending, write in _WRITERS.items() if path.name.endswith(ending)), None)
    if write is None:
        raise unknown("kind of file", path.suffix or path.name, _WRITERS)
    with replacing(path) as temporary:
        write(store, temporary)


def _write_npz(store: TripleStore, path: Path) -> None:
    layers = store.layout.layers
    with zipfile.ZipFile(path, "w") as archive:
        for name in _ARRAYS:  # one after the other: an archive has one open file
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                kind = getattr(store, name)(slice(0, 1)).dtype
                head = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (len(store),)}
                np.lib.format.write_array_header_1_0(file, head)
                for _, columns in store.scan(name):
                    file.write(columns[name].data)
        small: dict[str, NDArray[Any]] = {
            "layer_names": np.array([layer.name for layer in layers]),
            "layer_sizes": np.array([layer.size for layer in layers]),
            "densities": np.array(store.densities),
        }
        for name, values in small.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, values)


def _write_parquet(store: TripleStore, path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet needs pyarrow: pip install 'autosparse[parquet]'") from None
    names = pyarrow.array([layer.name for layer in store.layout.layers])
    ends = np.cumsum([layer.size for layer in store.layout.layers])
    about = json.dumps({"densities": store.densities, "iterations": store.iterations, "run": store.run})
    writer = None
    try:
        for window, columns in store.scan(*_ARRAYS):
            number = np.searchsorted(ends, np.arange(window.start, window.stop), side="right").astype(np.int32)
            layer = pyarrow.DictionaryArray.from_arrays(number, names)
            table = pyarrow.table({"layer": layer, **columns})
            if writer is None:
                schema = table.schema.with_metadata({"autosparse": about})
                writer = pyarrow.parquet.ParquetWriter(path, schema)
            writer.write_table(table.replace_schema_metadata(schema.metadata))
    finally:
        if writer is not None:
            writer.close()


def _write_zarr(store: TripleStore, path: Path) -> None:
    # the bits of each place side by side: counts and exponents repeat, the lower bits of a float do not
    packed = BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")
    layers = store.layout.layers
    about = {
        "layer_names": [layer.name for layer in layers],
        "layer_sizes": [layer.size for layer in layers],
        "densities": store.densities,
        "run": store.run,
    }
    with ZipStore(path, mode="w") as archive:
        group = zarr.create_group(archive, attributes=about)
        for name in _ARRAYS:
            array = group.create_array(
                name,
                shape=(len(store),),
                chunks=(store.grid.chunk,),
                dtype=getattr(store, name)(slice(0, 1)).dtype,
                compressors=packed,
                dimension_names=("parameter",),
            )
            for window, columns in store.scan(name):
                array[window] = columns[name]


_WRITERS = {".npz": _write_npz, ".parquet": _write_parquet, ".zarr.zip": _write_zarr}
