"""Export of a store to one file for other tools: NumPy's .npz, Parquet or a compressed Zarr."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec
from zarr.storage import ZipStore

from autosparse.errors import UserError, unknown
from autosparse.files import replacing
from autosparse.store.reader import TripleStore

_ARRAYS = ("theta", "grad", "survival")


def export(store: TripleStore, path: Path) -> None:
    """Write theta, grad, survival and the layer of each parameter to one file, whose ending selects the format.

    - `.npz`: arrays `theta`, `grad`, `survival` (P,); `layer_names` and `layer_sizes` (layers,), in the order of the
      parameters; `densities` (N + 1,). All of it must fit into memory; the other formats are written block by block.
    - `.parquet`: one row per parameter, columns `layer`, `theta`, `grad`, `survival`; densities and the run's metadata
      as JSON in the file's metadata, under `autosparse`. Needs pyarrow.
    - `.zarr.zip`: Zarr arrays `theta`, `grad`, `survival` (P,), compressed by Blosc; `layer_names`, `layer_sizes`,
      `densities` and the run's metadata are attributes of the group.

    The file appears whole or not at all. Missing folders are created.
    """
    write = next((write for ending, write in _WRITERS.items() if path.name.endswith(ending)), None)
    if write is None:
        raise unknown("kind of file", path.suffix or path.name, _WRITERS)
    with replacing(path) as temporary:
        write(store, temporary)


def _write_npz(store: TripleStore, path: Path) -> None:
    arrays: dict[str, Any] = {name: getattr(store, name)() for name in _ARRAYS} | _layers(store)
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def _write_parquet(store: TripleStore, path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet needs pyarrow: pip install 'autosparse[parquet]'") from None
    names = pyarrow.array([layer.name for layer in store.layout.layers])
    ends = np.cumsum([layer.size for layer in store.layout.layers])
    about = json.dumps({"densities": store.densities, "iterations": store.iterations, "run": store.run})
    schema = pyarrow.schema(
        [
            ("layer", pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
            *((name, pyarrow.from_numpy_dtype(store.formats[name].dtype)) for name in _ARRAYS),
        ],
        metadata={"autosparse": about},
    )
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for block, columns in store.scan(*_ARRAYS):
            number = np.searchsorted(ends, np.arange(block.start, block.stop), side="right").astype(np.int32)
            layer = pyarrow.DictionaryArray.from_arrays(number, names)
            writer.write_table(pyarrow.table({"layer": layer, **columns}, schema=schema))


def _write_zarr(store: TripleStore, path: Path) -> None:
    # Bit shuffle groups bits of equal significance: counts and exponents repeat, the lower bits of a float do not.
    codec = BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")
    with ZipStore(path, mode="w") as archive:
        group = zarr.create_group(archive, attributes={**_layers(store), "run": store.run})
        for name in _ARRAYS:
            array = group.create_array(
                name,
                shape=(len(store),),
                chunks=(store.grid.chunk,),
                dtype=store.formats[name].dtype,
                compressors=codec,
                dimension_names=("parameter",),
            )
            for block, columns in store.scan(name):
                array[block] = columns[name]


def _layers(store: TripleStore) -> dict[str, list[Any]]:
    layers = store.layout.layers
    names, sizes = [layer.name for layer in layers], [layer.size for layer in layers]
    return {"layer_names": names, "layer_sizes": sizes, "densities": store.densities}


_WRITERS = {".npz": _write_npz, ".parquet": _write_parquet, ".zarr.zip": _write_zarr}
