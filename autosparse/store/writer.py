"""Write a triple store that survives being killed: whole shards, one owner each, durable before they are committed."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from torch import Tensor
from zarr.abc.buffer import Buffer
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore

from autosparse.distributed import Group
from autosparse.errors import StoreError, UserError
from autosparse.pruning import Layout, Mask
from autosparse.pruning.schedule import keep_count
from autosparse.store import schema
from autosparse.store.reader import TripleStore
from autosparse.store.schema import LEDGER, MARKER, METADATA, Entry, Grid, Ledger, shard_path
from autosparse.store.storage import Storage, is_temporary, storage_of

Values = Tensor | Callable[[slice], NDArray[Any]]  # an array, or a function from a shard's flat indices to its values
_EMPTY: Mapping[str, Any] = MappingProxyType({})
_WRITERS = 4  # threads that write shards; disks are faster if several files are synced at once
_MAY_CHANGE = {"versions", "commit", "task_path", "task_fields"}  # on resume the code may be newer, the data elsewhere


class TripleWriter:
    """Writes one run's store together with the other processes of its group: all of them call each method.

    Shards are written as they are in memory. A commit waits until all processes have written their shards durably, then
    the main process adds the files to the ledger. Files are durable before they are committed, and are never rewritten.

    The order of a run: `open`; `commit_features`; `commit_alive` for i = 1..N; `finish`. After a kill `open` resumes at
    the last commit, and uncommitted files are written again with the same bytes.

    `ledger` is the record of everything committed so far.
    """

    def __init__(self, storage: Storage, group: Group) -> None:
        self.storage, self._group = storage, group
        attributes, self.ledger = schema.read_metadata(storage)
        self.layout = Layout.from_json(attributes["layout"])
        self.iterations: int = attributes["iterations"]
        self.columns: list[str] = attributes["columns"]
        self.run: dict[str, Any] = attributes["run"]
        self.grid = Grid.read(storage, self.layout.size)
        self._formats = schema.array_formats(self.grid, self.iterations, self.columns)
        # survival so far of this process's shards; only in a writer that has committed every mask
        self._survival: dict[int, NDArray[Any]] = {}

    @classmethod
    def open(
        cls,
        path: str | Path,
        layout: Layout,
        iterations: int,
        run: dict[str, Any],
        group: Group = Group(),  # noqa: B008 (frozen)
        shard: int | None = None,
        columns: Sequence[str] = (),
    ) -> "TripleWriter":
        """Create a store, or resume an unfinished one of the same run; `committed` tells at which mask.

        Args:
            path: folder or `s3://` URL.
            layout: index space of the parameters.
            iterations: number of iterations, N, at least 1.
            run: JSON-serializable metadata of the run, equal in an interrupted and an uninterrupted run.
            group: processes that write the store.
            shard: number of elements per shard. Default: depends on the size of the store.
            columns: names of the columns that a probe measures in each iteration, see `autosparse.lookahead.Probe`.
        """
        storage = storage_of(path)
        if group.is_main and storage.size(LEDGER) is None:
            _create(storage, layout, iterations, run, shard, columns)
        group.gather(None)
        if storage.size(MARKER) is not None:
            raise StoreError(f"{storage} is complete; nothing may be written to it")
        writer = cls(storage, group)
        if writer.layout != layout:
            raise UserError(f"{storage} is the store of another network; choose another folder")
        stored = {"iterations": writer.iterations, "columns": writer.columns, "shard": writer.grid.shard, **writer.run}
        given = {"iterations": iterations, "columns": list(columns), "shard": shard or writer.grid.shard, **run}
        for key in sorted((given.keys() & stored.keys()) - _MAY_CHANGE):
            if _differ(stored[key], given[key]):
                raise UserError(
                    f"{storage} is the store of a run with {key} = {stored[key]}, not {given[key]}; "
                    "choose another folder"
                )
        if group.is_main:
            writer._remove_uncommitted()
        group.gather(None)
        return writer

    @property
    def committed(self) -> int:
        """Number of committed masks beyond m_0, or -1 before theta and grad are committed."""
        return self.ledger.committed

    @property
    def store(self) -> TripleStore:
        """A reader of everything committed so far."""
        return TripleStore.open(str(self.storage), unfinished=True)

    def commit_features(self, theta: Values, grad: Values, *, sidecars: Mapping[str, str] = _EMPTY) -> None:
        """Write and commit theta, grad, float32 (P,), and m_0; record the main process's digests of sidecar files."""
        self._commit({"theta": theta, "grad": grad}, density=1.0, sidecars=sidecars)

    def commit_alive(
        self, i: int, mask: Mask, probe: Mapping[str, Tensor] = _EMPTY, sidecars: Mapping[str, str] = _EMPTY
    ) -> None:
        """Write and commit m_i and what a probe measured in the training under m_{i-1}.

        `probe` has a float32 tensor for each of the store's columns, one value per parameter that m_{i-1} keeps.
        """
        if i != self.committed + 1 or not 1 <= i <= self.iterations:
            raise StoreError(f"{self.storage}: mask {i} does not follow mask {self.committed} of {self.iterations}")
        before = keep_count(self.ledger.densities[-1], self.layout.size)
        shapes = {name: tuple(values.shape) for name, values in probe.items()}
        if shapes != dict.fromkeys(self.columns, (before,)):
            raise StoreError(f"{self.storage} needs {before} values of each of {self.columns}, got {shapes}")
        kept = mask.kept.cpu().numpy()
        arrays: dict[str, Values] = {"alive": lambda shard: np.packbits(kept[shard], bitorder="little"), **probe}
        counts = dict.fromkeys(self.columns, -(-before // self.grid.shard))
        self._commit(arrays, i - 1, mask.density, counts, sidecars)
        for k in range(self._group.rank, self.grid.shards, self._group.size):
            part = kept[self.grid.indices(k)]
            if i == 1:
                self._survival[k] = part.astype(self._formats["survival"].dtype)
            elif k in self._survival:
                self._survival[k] += part

    def commit_sidecars(self, sidecars: Mapping[str, str]) -> None:
        """Commit digests of files that the run will read again, see `commit_features`."""
        self._commit({}, sidecars=sidecars)

    def finish(self, sidecars: Mapping[str, str] = _EMPTY) -> None:
        """Write and commit survival, the sum of the masks, and mark the store complete."""
        if self.committed != self.iterations:
            masks = f"{max(self.committed, 0)} of {self.iterations} masks"
            raise StoreError(f"{self.storage}: {masks} are committed; the run is not finished")
        if shard_path("survival", 0) not in self.ledger.files:
            store = self.store

            def survival(shard: slice) -> NDArray[Any]:
                k = shard.start // self.grid.shard
                if k in self._survival:
                    return self._survival[k]
                total = np.zeros(shard.stop - shard.start, self._formats["survival"].dtype)
                for i in range(1, self.iterations + 1):
                    total += store.alive(i, shard)
                return total

            self._commit({"survival": survival}, sidecars=sidecars)
        if self._group.is_main:
            self.storage.write(MARKER, self.ledger.checksum.encode())
        self._group.gather(None)

    def _remove_uncommitted(self) -> None:
        """Delete what a killed writer left uncommitted."""
        names = self.storage.sizes()  # They are listed before the ledger is read: files committed in between stay.
        committed = Ledger.read(self.storage).files
        for name in names:
            if is_temporary(name) or ("/c/" in name and name not in committed):
                self.storage.remove(name)

    def _commit(
        self,
        arrays: Mapping[str, Values],
        row: int | None = None,
        density: float | None = None,
        counts: Mapping[str, int] = _EMPTY,
        sidecars: Mapping[str, str] = _EMPTY,
    ) -> None:
        """Write this process's shards of arrays, or of a row of them, and commit the shards of all processes.

        `density` is that of the mask, if the commit ends an iteration. `counts` holds the number of shards of arrays
        that are shorter than the grid.
        """
        counts = {array: counts.get(array, self.grid.shards) for array in arrays}
        owned = [(array, k) for array in arrays for k in range(self._group.rank, counts[array], self._group.size)]
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="write") as writers:
            written = dict(writers.map(lambda pair: self._write(pair[0], pair[1], arrays[pair[0]], row), owned))
        self.storage.sync(written)
        parts = self._group.gather((written, dict(sidecars)))
        files = {name: entry for entries, _ in parts for name, entry in entries.items()}
        densities = self.ledger.densities + ([] if density is None else [density])
        ledger = Ledger(self.ledger.files | files, densities, self.ledger.sidecars | parts[0][1])
        if self._group.is_main:
            self._check_written([shard_path(array, k, row) for array in arrays for k in range(counts[array])], files)
            ledger.write(self.storage)
        self._group.gather(None)
        self.ledger = ledger

    def _check_written(self, expected: list[str], files: dict[str, Entry]) -> None:
        """Raise `StoreError` if a shard is missing, or if another run writes the same store."""
        if Ledger.read(self.storage).checksum != self.ledger.checksum:
            raise StoreError(f"{self.storage}: another process committed in between; run one at a time")
        sizes = self.storage.sizes()
        for name in expected:
            if name not in files:
                raise StoreError(f"{self.storage}: {name} was not written; the iteration is not finished")
            if sizes.get(name) != files[name]["size"]:
                raise StoreError(f"{self.storage}: {name} was removed before its commit; run one at a time")

    def _write(self, array: str, k: int, values: Values, row: int | None) -> tuple[str, Entry]:
        """Write shard k; return its path and its entry in the ledger."""
        name, shard, form = shard_path(array, k, row), self.grid.indices(k), self._formats[array]
        content = values[shard].cpu().numpy() if isinstance(values, Tensor) else values(shard)
        length = shard.stop - shard.start
        expected = len(content) if array in self.columns else -(-length // 8) if array == "alive" else length
        if (content.dtype, content.shape) != (form.dtype, (expected,)):
            raise StoreError(
                f"{self.storage}: {name} holds {expected} values of {form.dtype}, got {content.dtype} {content.shape}"
            )
        content = np.ascontiguousarray(content)
        parts, sums = form.encode(content)
        try:
            self.storage.put(name, parts)
        except FileExistsError:
            raise StoreError(
                f"{self.storage}: another process has written {name}; run one at a time, or, if the other was killed, "
                "repeat the command to clean up"
            ) from None
        size, squares = form.size(len(content)), array in ("theta", "grad")
        return name, schema.shard_entry(size, sums, content, squares)


def _create(
    storage: Storage, layout: Layout, iterations: int, run: dict[str, Any], shard: int | None, columns: Sequence[str]
) -> None:
    """Create an empty store: the arrays' metadata, and a ledger that names nothing else. See `TripleWriter.open`."""
    grid = Grid.of(layout.size, shard)
    formats = schema.array_formats(grid, iterations, columns)
    names = [METADATA, *(f"{array}/{METADATA}" for array in formats)]
    if not all(name in names or is_temporary(name) for name in storage.sizes()):  # left by a killed process
        raise StoreError(f"{storage} is not empty and not a triple store; choose another path")
    encoded: dict[str, Buffer] = {}
    group = zarr.create_group(
        MemoryStore(encoded),
        zarr_format=3,
        attributes={
            "schema": schema.SCHEMA_VERSION,
            "iterations": iterations,
            "columns": list(columns),
            "layout": layout.to_json(),
            "run": run,
        },
    )
    # xarray needs names of dimensions; dimensions of one name have the same length
    dimensions = {"alive": ("iteration", "byte"), **dict.fromkeys(columns, ("iteration", "survivor"))}
    for array, form in formats.items():
        rows = array in dimensions
        group.create_array(
            array,
            shape=(*[iterations] * rows, -(-grid.size // 8) if array == "alive" else grid.size),
            chunks=(*[1] * rows, form.chunk),
            shards=(*[1] * rows, form.length),
            dtype=form.dtype,
            fill_value=form.fill,
            compressors=Crc32cCodec(),
            dimension_names=dimensions.get(array, ("parameter",)),
        )
    metadata = {name: encoded[name].to_bytes() for name in names}
    for name, content in metadata.items():
        storage.write(name, content)
    Ledger({name: schema.metadata_entry(content) for name, content in metadata.items()}).write(storage)


def _differ(stored: Any, given: Any) -> bool:
    """Return True if two values differ. Keys missing on either side are ignored: they are newer than the store."""
    if isinstance(stored, dict) and isinstance(given, dict):
        return any(_differ(stored[key], given[key]) for key in stored.keys() & given.keys())
    return bool(stored != given)
