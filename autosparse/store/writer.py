"""Writing a triple store so that it survives being killed: whole shards, one owner each, durable before committed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from torch import Tensor
from zarr.abc.buffer import Buffer
from zarr.buffer import cpu
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from autosparse.errors import StoreError
from autosparse.pruning import Layout, Mask
from autosparse.store import pipeline
from autosparse.store.reader import TripleStore, read_attributes
from autosparse.store.schema import (
    ARRAYS,
    LEDGER,
    MARKER,
    METADATA,
    RECOVERY,
    Entry,
    Grid,
    Ledger,
    attributes,
    entry,
    shard_entry,
    shard_path,
    survival_dtype,
)
from autosparse.store.storage import Storage, is_temporary, storage_of

Committed = dict[str, Entry]
_AT_A_TIME = 2  # shards being encoded or made durable; one can be on its way to the disk while the other is encoded


class TripleWriter:
    """Writes one run's store, on one process or several; every file is written once.

    zarr encodes a shard in memory, whole; then the bytes go to their storage, durably, and into what `write...` returns
    for `commit`: nothing is committed that was not on the disk before.

    Order of a run: `create`; `write_features` by each process and one `commit` of them all; for i = 1..N `write_alive`
    and `commit`; `write_survival`; `finish`. After a kill `clean`, then `resume`; what was not committed is written
    again, with the same bytes.
    """

    def __init__(self, storage: Storage, rank: int = 0, world_size: int = 1) -> None:
        self.storage, self._rank, self._world_size = storage, rank, world_size
        found = read_attributes(storage)
        self._ledger, self._checksum = Ledger.read(storage)
        self._encoded: dict[str, Buffer] = {}
        for name in METADATA:
            content = b"" if storage.size(name) is None else storage.read(name)
            if entry(content) != self._ledger.files.get(name):
                raise StoreError(f"{storage}: {name} is damaged or missing; {RECOVERY}")
            self._encoded[name] = cpu.Buffer.from_bytes(content)
        self.layout = Layout.from_json(found["layout"])
        self.iterations: int = found["iterations"]
        encoder = MemoryStore(self._encoded)
        # opened, an array takes this from the global configuration; `open_array` ignores it as an argument
        with pipeline.configured("zarr"), zarr.config.set({"array.write_empty_chunks": True}):
            self._arrays: dict[str, Any] = {
                name: zarr.open_array(encoder, path=name, mode="r+", zarr_format=3) for name in ARRAYS
            }
        theta = self._arrays["theta"]
        self.grid = Grid(self.layout.size, theta.shards[0], theta.chunks[0])

    @staticmethod
    def create(
        path: str | Path, layout: Layout, iterations: int, run: dict[str, Any], shard: int | None = None
    ) -> None:
        """Lay out an empty store; done by one process, before any opens a writer.

        A folder without a ledger is the remains of a `create` that was killed, and is replaced.

        Args:
            path: the store's folder.
            layout: the index space.
            iterations: N, at least 1.
            run: JSON values that say what made the store (configuration, seeds, versions). Nothing that differs
                between an interrupted and an uninterrupted run.
            shard: elements a shard; chosen by size if not given.

        Raises:
            StoreError: there is a store already, or something that is none.
        """
        storage = storage_of(path)
        there = storage.sizes()
        if LEDGER in there:
            raise StoreError(f"{storage} holds a triple store already; resume it or choose another path")
        if not all(name in METADATA or is_temporary(name) for name in there):
            raise StoreError(f"{storage} is not empty and no triple store; choose another path")
        grid = Grid.of(layout.size, shard)
        encoded: dict[str, Buffer] = {}
        group = zarr.create_group(MemoryStore(encoded), zarr_format=3, attributes=attributes(layout, iterations, run))
        plain, packed = Crc32cCodec(), ZstdCodec(level=1, checksum=True)
        survival = survival_dtype(iterations)
        flat: dict[str, Any] = {"shape": (grid.size,), "chunks": (grid.chunk,), "shards": (grid.shard,)}
        rows: dict[str, Any] = {
            "shape": (iterations, -(-grid.size // 8)),
            "chunks": (1, grid.chunk // 8),
            "shards": (1, grid.shard // 8),
        }
        # NaN and an impossible count: what was never written cannot pass for data
        for name, kind, fill, codecs, shape in (
            ("theta", "f4", np.nan, plain, flat),
            ("grad", "f4", np.nan, plain, flat),
            ("survival", survival, np.iinfo(survival).max, [packed, plain], flat),
            ("alive", "u1", 0, [packed, plain], rows),
        ):
            group.create_array(name, dtype=kind, fill_value=fill, compressors=codecs, **shape)
        metadata = {name: encoded[name].to_bytes() for name in METADATA}
        for name, content in metadata.items():
            storage.write(name, memoryview(content), replace=True)
        Ledger({name: entry(content) for name, content in metadata.items()}).write(storage)

    @staticmethod
    def clean(path: str | Path) -> None:
        """Delete what a killed writer left uncommitted; done by one process, before any resumes.

        Raises:
            StoreError: no store, or a damaged one.
        """
        storage = storage_of(path)
        there = storage.sizes()  # before the ledger: what is committed meanwhile stays
        committed = Ledger.read(storage)[0].files
        for name in there:
            if is_temporary(name) or ("/c/" in name and name not in committed):
                storage.remove(name)

    @classmethod
    def resume(cls, path: str | Path, rank: int = 0, world_size: int = 1) -> "TripleWriter":
        """Open an unfinished store to go on; `committed` says from where.

        Raises:
            StoreError: no store, a damaged one, or one that is complete.
        """
        storage = storage_of(path)
        if storage.size(MARKER) is not None:
            raise StoreError(f"{storage} is complete; nothing may be written to it")
        return cls(storage, rank, world_size)

    @property
    def committed(self) -> int:
        """Number of masks committed beyond m_0, or -1 where theta and grad are not committed yet."""
        return self._ledger.iterations

    @property
    def survival_committed(self) -> bool:
        """Whether survival is committed, all that is left being to `finish`."""
        return shard_path("survival", 0) in self._ledger.files

    @property
    def store(self) -> TripleStore:
        """A reader of what has been committed so far."""
        return TripleStore.open(str(self.storage), unfinished=True)

    def write_features(self, theta: Tensor, grad: Tensor) -> Committed:
        """Write this process's shards of theta and grad, float32 (P,); returns what to commit."""
        for values in (theta, grad):
            if values.shape != (self.layout.size,):
                raise StoreError(f"{self.storage} holds {self.layout.size} parameters, got {tuple(values.shape)}")
        return self._write_owned("theta", lambda span: theta[span].cpu().numpy()) | self._write_owned(
            "grad", lambda span: grad[span].cpu().numpy()
        )

    def write_alive(self, i: int, mask: Mask) -> Committed:
        """Write this process's shards of m_i, i = 1..N; returns what to commit."""
        if i != self.committed + 1 or not 1 <= i <= self.iterations:
            raise StoreError(f"{self.storage}: mask {i} does not follow mask {self.committed} of {self.iterations}")
        if mask.layout != self.layout:
            raise StoreError(f"{self.storage}: the mask is of another layout")
        bits = np.packbits(mask.kept.cpu().numpy(), bitorder="little")
        row = i - 1
        return self._write_owned("alive", lambda span: bits[_bytes_of(span)], row)

    def write_survival(self) -> Committed:
        """Write this process's shards of survival, the sum of the masks committed; returns what to commit."""
        if self.committed != self.iterations:
            raise StoreError(f"{self.storage}: {self.committed} of {self.iterations} masks are committed")
        store = self.store

        def survival(span: slice) -> NDArray[Any]:
            total = np.zeros(span.stop - span.start, self._arrays["survival"].dtype)
            for i in range(1, self.iterations + 1):
                total += store.alive(i, span)
            return total

        return self._write_owned("survival", survival)

    def write(self, array: str, span: slice, values: NDArray[Any]) -> Committed:
        """Write one whole shard of theta or grad that this process owns.

        Raises:
            StoreError: the slice is no shard, another process owns it, or it was committed before.
        """
        if array not in ("theta", "grad"):
            raise StoreError(f"{array} is not written in slices; theta and grad are")
        return self._put(array, span, values)

    def commit(self, files: Committed, density: float | None = None) -> None:
        """Enter files of all processes into the ledger; done by one process, after all have written.

        `density` ends an iteration: 1 with theta and grad, then that of each mask.

        Raises:
            StoreError: a shard of the iteration is missing, or another process works on the store.
        """
        if Ledger.read(self.storage)[1] != self._checksum:
            raise StoreError(f"{self.storage}: another process has committed meanwhile; one run at a time")
        if density is not None:
            arrays = ("alive",) if self.committed >= 0 else ("theta", "grad")
            row = self.committed if self.committed >= 0 else None
            for name in (shard_path(array, k, row) for array in arrays for k in range(self.grid.shards)):
                if name not in files and name not in self._ledger.files:
                    raise StoreError(f"{self.storage}: {name} was not written; the iteration is not finished")
        there = self.storage.sizes()
        for name, expected in files.items():
            if there.get(name) != expected["size"]:
                raise StoreError(f"{self.storage}: {name} was removed before its commit; one run at a time")
        ledger = Ledger(self._ledger.files | files, [*self._ledger.densities])
        if density is not None:
            ledger.densities.append(density)
        self._checksum = ledger.write(self.storage)
        self._ledger = ledger

    def refresh(self) -> None:
        """Take over what another process has committed."""
        self._ledger, self._checksum = Ledger.read(self.storage)

    def finish(self) -> None:
        """Mark the store complete; done by one process, after everything is committed.

        Raises:
            StoreError: a shard or a mask is missing from the ledger (names the first).
        """
        ledger, checksum = Ledger.read(self.storage)
        shards = range(self.grid.shards)
        expected = [shard_path(array, k) for array in ("theta", "grad", "survival") for k in shards]
        expected += [shard_path("alive", k, row) for row in range(self.iterations) for k in shards]
        for name in expected:
            if name not in ledger.files:
                raise StoreError(f"{self.storage}: {name} was never committed; the run is not finished")
        self.storage.write(MARKER, memoryview(checksum.encode()), replace=True)

    def _write_owned(self, array: str, values: Callable[[slice], NDArray[Any]], row: int | None = None) -> Committed:
        def one(span: slice) -> Committed:
            return self._put(array, span, values(span), row)

        committed: Committed = {}
        with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="write") as writers:
            for part in writers.map(one, self.grid.owned(self._rank, self._world_size)):
                committed |= part
        return committed

    def _put(self, array: str, span: slice, values: NDArray[Any], row: int | None = None) -> Committed:
        shard = self.grid.shard_at(span)
        owner = shard % self._world_size
        if owner != self._rank:
            raise StoreError(f"{self.storage}: shard {shard} belongs to process {owner}, not {self._rank}")
        name = shard_path(array, shard, row)
        if name in self._ledger.files:
            raise StoreError(f"{self.storage}: {name} was committed before and is never written twice")
        target = self._arrays[array]
        if values.dtype != target.dtype:
            raise StoreError(f"{self.storage}: {array} holds {target.dtype}, got {values.dtype}")
        index = span if row is None else _bytes_of(span)
        if values.shape != (index.stop - index.start,):  # zarr would repeat a single one
            raise StoreError(f"{self.storage}: {name} holds {index.stop - index.start} values, got {values.shape}")
        target[index if row is None else (row, index)] = values
        encoded: Any = self._encoded.pop(name).as_numpy_array()
        content = memoryview(encoded)
        try:
            self.storage.write(name, content, replace=False)
        except FileExistsError:
            raise StoreError(
                f"{self.storage}: another process has written {name}; one run at a time, or, if that one was killed, "
                "run the same again to clean up"
            ) from None
        return {name: shard_entry(len(content), np.ascontiguousarray(values), target.chunks[-1])}


def _bytes_of(span: slice) -> slice:
    """Where the bits of a span lie in a row of alive."""
    return slice(span.start // 8, -(-span.stop // 8))
