"""Reading a triple store: nothing comes back as data that was not written and committed."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from autosparse.errors import StoreError
from autosparse.pruning import Layout, Mask
from autosparse.store.schema import ARRAYS, MARKER, RECOVERY, SCHEMA_VERSION, Grid, Ledger, file_entry, shard_path


class TripleStore:
    """The triples of one run, read in slices of the flat index space.

    Attributes:
        path: the store's folder.
        layout: the index space.
        iterations: N.
        densities: share kept by m_0, m_1, ... as far as committed.
        run: what made the store, as it was given to `TripleWriter.create`.
        complete: whether the run was finished.
        fingerprint: hex digits that change with any byte committed.
    """

    def __init__(self, path: Path, unfinished: bool) -> None:
        self.path = path
        attributes = read_attributes(path)
        ledger, self.fingerprint = Ledger.read(path)
        self._ledger = ledger
        self.complete = _is_complete(path, self.fingerprint)
        for name in ["zarr.json", *(f"{array}/zarr.json" for array in ARRAYS)]:
            self._compare(name, whole=True)
        if not self.complete and not unfinished:
            raise StoreError(
                f"{path} is not finished ({max(ledger.iterations, 0)} of {attributes['iterations']} iterations); "
                "run the same IRP again to finish it"
            )
        self._arrays = open_arrays(LocalStore(path, read_only=True))
        self.layout = Layout.from_json(attributes["layout"])
        self.iterations: int = attributes["iterations"]
        self.run: dict[str, Any] = attributes["run"]
        self.densities: list[float] = ledger.densities
        self.grid = Grid.of(self.layout.size, self._arrays["theta"].shards[0])
        for name in ledger.files:
            self._compare(name, whole=False)

    @classmethod
    def open(cls, path: str | Path, unfinished: bool = False) -> "TripleStore":
        """Open a store for reading.

        The metadata are compared with the ledger byte for byte, the shards by existence and size; their content is
        checked when it is read (a crc32c a chunk), or all at once by `verify`.

        Args:
            path: the folder, or a run's folder that holds it as `triples.zarr`.
            unfinished: whether a store whose run has not ended will do.

        Raises:
            StoreError: no store, an unfinished or damaged one (names array and shard), or one of a newer schema.
        """
        path = Path(path)
        nested = path / "triples.zarr"
        return cls(nested if nested.is_dir() else path, unfinished)

    def __len__(self) -> int:
        """P, the number of triples."""
        return self.layout.size

    def theta(self, span: slice = slice(None)) -> NDArray[np.float32]:
        """Initial weights, float32."""
        return self._read("theta", span)

    def grad(self, span: slice = slice(None)) -> NDArray[np.float32]:
        """Gradients at the initial weights, float32."""
        return self._read("grad", span)

    def survival(self, span: slice = slice(None)) -> NDArray[np.unsignedinteger[Any]]:
        """Number of masks that keep each parameter, 0..N."""
        return self._read("survival", span)

    def alive(self, i: int, span: slice = slice(None)) -> NDArray[np.bool_]:
        """Whether m_i keeps each parameter; i = 0..N, as far as committed. The span starts on a multiple of 8."""
        start, stop, _ = span.indices(len(self))
        if not 0 <= i < len(self.densities):
            raise StoreError(f"{self.path}: mask {i} is not there; {len(self.densities) - 1} iterations are committed")
        if start % 8:
            raise ValueError(f"a span of alive starts on a multiple of 8, got {start}")
        if i == 0:
            return np.ones(stop - start, np.bool_)
        bits = self._read("alive", slice(start // 8, -(-stop // 8)), row=i - 1)
        return np.unpackbits(bits, count=stop - start, bitorder="little").view(np.bool_)

    def mask(self, i: int) -> Mask:
        """m_i as a mask; i = 0..N, as far as committed."""
        return Mask(self.layout, torch.from_numpy(self.alive(i)))

    @property
    def files(self) -> list[str]:
        """Every file committed, by its path in the store."""
        return list(self._ledger.files)

    def check(self, name: str) -> None:
        """Compare a file with the ledger, byte for byte.

        Raises:
            StoreError: it is missing, not committed, or damaged.
        """
        self._compare(name, whole=True)

    def _compare(self, name: str, whole: bool) -> None:
        entry, path = self._ledger.files.get(name), self.path / name
        if entry is None:
            raise StoreError(f"{self.path}: {name} was never committed; {RECOVERY}")
        if not path.is_file():
            raise StoreError(f"{self.path}: {name} is missing; {RECOVERY}")
        if path.stat().st_size != entry["size"]:
            raise StoreError(
                f"{self.path}: {name} has {path.stat().st_size} bytes, {entry['size']} were committed; {RECOVERY}"
            )
        if whole and file_entry(path) != entry:
            raise StoreError(f"{self.path}: {name} is damaged (checksum); {RECOVERY}")

    def _read(self, array: str, span: slice, row: int | None = None) -> Any:
        target = self._arrays[array]
        start, stop, _ = span.indices(target.shape[-1])
        width = target.shards[-1]
        names = [shard_path(array, k, row) for k in range(start // width, -(-stop // width))]
        for name in names:
            self._compare(name, whole=False)
        try:
            return target[start:stop] if row is None else target[row, start:stop]
        except (ValueError, RuntimeError, OSError) as error:  # a checksum, a torn shard index, zstd, the disk
            for name in names:
                self._compare(name, whole=True)
            raise StoreError(f"{self.path}: {array} cannot be read ({error}); {RECOVERY}") from error


def read_attributes(path: Path) -> dict[str, Any]:
    """The group attributes.

    Raises:
        StoreError: no triple store, or one of another schema.
    """
    if not path.is_dir():
        raise StoreError(f"no triple store at {path}")
    try:
        found: dict[str, Any] = dict(zarr.open_group(LocalStore(path, read_only=True), mode="r").attrs)
        schema = int(found["schema"])
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise StoreError(f"{path} is no triple store: its zarr.json is missing or damaged") from error
    if schema != SCHEMA_VERSION:
        raise StoreError(f"{path} has schema {schema}, this version reads {SCHEMA_VERSION}; update autosparse")
    return found


def open_arrays(store: LocalStore, write_empty_chunks: bool = False) -> dict[str, Any]:
    """The four arrays of a store.

    Raises:
        StoreError: one is missing or its metadata are damaged.
    """
    arrays = {}
    for name in ARRAYS:
        try:
            # when opened, an array takes this from the global configuration; `open_array` ignores it as an argument
            with zarr.config.set({"array.write_empty_chunks": write_empty_chunks}):
                arrays[name] = zarr.open_array(store, path=name, mode="r" if store.read_only else "r+")
        except (KeyError, ValueError, TypeError, OSError) as error:
            raise StoreError(f"{store.root}: {name}/zarr.json is missing or damaged ({error}); {RECOVERY}") from error
    return arrays


def _is_complete(path: Path, fingerprint: str) -> bool:
    try:
        marker = (path / MARKER).read_bytes()
    except FileNotFoundError:
        return False
    if marker != fingerprint.encode():
        raise StoreError(f"{path}: {MARKER} is damaged or of another ledger; {RECOVERY}")
    return True
