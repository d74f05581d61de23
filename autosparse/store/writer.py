"""Writing a triple store so that it survives being killed: whole shards, one owner each, durable before committed."""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from torch import Tensor
from zarr.abc.buffer import Buffer
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from autosparse.errors import StoreError
from autosparse.files import fsync_folder, replacing
from autosparse.pruning import Layout, Mask
from autosparse.store.reader import TripleStore, open_arrays, read_attributes
from autosparse.store.schema import (
    ARRAYS,
    LEDGER,
    MARKER,
    Grid,
    Ledger,
    attributes,
    file_entry,
    shard_path,
    survival_dtype,
)

Committed = dict[str, dict[str, int]]


def _is_remains(path: Path) -> bool:
    """Whether a folder holds nothing but what a killed `create` may have left: metadata and temporary files."""
    files = [file for file in path.rglob("*") if not file.is_dir()]
    return all(file.name in ("zarr.json", f".{LEDGER}.tmp") or file.suffix == ".partial" for file in files)


class DurableStore(LocalStore):
    """zarr's local store (temporary file, rename), with what was written made durable before `set` returns."""

    async def set(self, key: str, value: Buffer) -> None:
        await super().set(key, value)
        await asyncio.to_thread(self._sync, key)

    def set_sync(self, key: str, value: Buffer) -> None:  # newer versions of zarr write through this one
        super().set_sync(key, value)
        self._sync(key)

    def _sync(self, key: str) -> None:
        path = self.root / key
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        while path != self.root:
            path = path.parent
            fsync_folder(path)


class TripleWriter:
    """Writes one run's store, on one process or several; every file is written once.

    Order of a run: `create`; `write_features` by each process and one `commit` of them all; for i = 1..N `write_alive`
    and `commit`; `write_survival`; `finish`. What was not committed when a run was killed is written again after
    `resume`, with the same bytes.
    """

    def __init__(self, path: Path, rank: int = 0, world_size: int = 1) -> None:
        self.path, self._rank, self._world_size = path, rank, world_size
        self._attributes = read_attributes(path)
        self.layout = Layout.from_json(self._attributes["layout"])
        self.iterations: int = self._attributes["iterations"]
        self._arrays = open_arrays(DurableStore(path), write_empty_chunks=True)
        self.grid = Grid.of(self.layout.size, self._arrays["theta"].shards[0])
        self._ledger, _ = Ledger.read(path)

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
        path = Path(path)
        if (path / LEDGER).exists():
            raise StoreError(f"{path} holds a triple store already; resume it or choose another path")
        if path.exists() and not _is_remains(path):
            raise StoreError(f"{path} is not empty and no triple store; choose another path")
        shutil.rmtree(path, ignore_errors=True)
        grid = Grid.of(layout.size, shard)
        group = zarr.create_group(DurableStore(path), attributes=attributes(layout, iterations, run))
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
            shape = {**shape, "config": {"write_empty_chunks": True}}
            group.create_array(name, dtype=kind, fill_value=fill, compressors=codecs, **shape)
        metadata = ["zarr.json", *(f"{name}/zarr.json" for name in ARRAYS)]
        Ledger({name: file_entry(path / name) for name in metadata}).write(path)
        fsync_folder(path.parent)

    @classmethod
    def resume(cls, path: str | Path, rank: int = 0, world_size: int = 1) -> "TripleWriter":
        """Open an unfinished store to go on; `store.committed` says from where.

        Raises:
            StoreError: no store, a damaged one, or one that is complete.
        """
        path = Path(path)
        if (path / MARKER).exists():
            raise StoreError(f"{path} is complete; nothing may be written to it")
        writer = cls(path, rank, world_size)
        if rank == 0:
            for left_over in [*path.rglob("*.partial"), *path.rglob(".*.tmp")]:
                left_over.unlink(missing_ok=True)
        return writer

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
        return TripleStore.open(self.path, unfinished=True)

    def write_features(self, theta: Tensor, grad: Tensor) -> Committed:
        """Write this process's shards of theta and grad, float32 (P,); returns what to commit."""
        return self._write_owned("theta", theta) | self._write_owned("grad", grad)

    def write_alive(self, i: int, mask: Mask) -> Committed:
        """Write this process's shards of m_i, i = 1..N; returns what to commit."""
        if i != self.committed + 1 or not 1 <= i <= self.iterations:
            raise StoreError(f"{self.path}: mask {i} does not follow mask {self.committed} of {self.iterations}")
        if mask.layout != self.layout:
            raise StoreError(f"{self.path}: the mask is of another layout")
        bits = np.packbits(mask.kept.cpu().numpy(), bitorder="little")
        committed: Committed = {}
        for span in self.grid.owned(self._rank, self._world_size):
            row = slice(span.start // 8, -(-span.stop // 8))
            committed |= self._put("alive", span, bits[row], index=(i - 1, row))
        return committed

    def write_survival(self) -> Committed:
        """Write this process's shards of survival, the sum of the masks committed; returns what to commit."""
        if self.committed != self.iterations:
            raise StoreError(f"{self.path}: {self.committed} of {self.iterations} masks are committed")
        store = self.store
        committed: Committed = {}
        for span in self.grid.owned(self._rank, self._world_size):
            survival = np.zeros(span.stop - span.start, self._arrays["survival"].dtype)
            for i in range(1, self.iterations + 1):
                survival += store.alive(i, span)
            committed |= self._put("survival", span, survival)
        return committed

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
        """
        ledger = Ledger(self._ledger.files | files, [*self._ledger.densities])
        if density is not None:
            ledger.densities.append(density)
        ledger.write(self.path)
        self._ledger = ledger

    def refresh(self) -> None:
        """Take over what another process has committed."""
        self._ledger, _ = Ledger.read(self.path)

    def finish(self) -> None:
        """Mark the store complete; done by one process, after everything is committed.

        Raises:
            StoreError: a shard or a mask is missing from the ledger (names the first).
        """
        ledger, checksum = Ledger.read(self.path)
        shards = range(self.grid.shards)
        expected = [shard_path(array, k) for array in ("theta", "grad", "survival") for k in shards]
        expected += [shard_path("alive", k, row) for row in range(self.iterations) for k in shards]
        for name in expected:
            if name not in ledger.files:
                raise StoreError(f"{self.path}: {name} was never committed; the run is not finished")
        with replacing(self.path / MARKER) as temporary:
            temporary.write_text(checksum)

    def _write_owned(self, array: str, flat: Tensor) -> Committed:
        committed: Committed = {}
        for span in self.grid.owned(self._rank, self._world_size):
            committed |= self._put(array, span, flat[span].cpu().numpy())
        return committed

    def _put(self, array: str, span: slice, values: NDArray[Any], index: Any = None) -> Committed:
        shard = self.grid.shard_at(span)
        if shard % self._world_size != self._rank:
            raise StoreError(
                f"{self.path}: shard {shard} belongs to process {shard % self._world_size}, not {self._rank}"
            )
        name = shard_path(array, shard, None if index is None else index[0])
        if name in self._ledger.files:
            raise StoreError(f"{self.path}: {name} was committed before and is never written twice")
        target = self._arrays[array]
        if values.dtype != target.dtype:
            raise StoreError(f"{self.path}: {array} holds {target.dtype}, got {values.dtype}")
        target[span if index is None else index] = values
        return {name: file_entry(self.path / name)}
