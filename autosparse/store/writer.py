"""Writing a triple store so that it survives being killed: whole shards, one owner each, durable before committed."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autosparse.distributed import Group
from autosparse.errors import StoreError, UserError
from autosparse.pruning import Layout, Mask
from autosparse.pruning.schedule import keep_count
from autosparse.store import shards
from autosparse.store.create import create
from autosparse.store.reader import TripleStore, read_attributes
from autosparse.store.schema import (
    LEDGER,
    MARKER,
    RECOVERY,
    Entry,
    Grid,
    Ledger,
    entry,
    forms,
    metadata_of,
    shard_entry,
    shard_path,
)
from autosparse.store.storage import Storage, is_temporary, storage_of

Values = Callable[[slice], NDArray[Any]]  # those of a shard, by its flat indices
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_AT_A_TIME = 4  # shards being written; disks are faster where several files are synced at once
# of a run: to go on with newer code, or with data elsewhere, is the user's choice
_CODE = {"versions", "commit", "task_path", "task_fields"}


class TripleWriter:
    """Writes one run's store, together with the other processes of its group: each method is called by all of them.

    A shard goes to its storage as it lies in memory. A commit gathers what all have written, durably; the main process
    enters it into the ledger, and the others wait. Nothing is committed that was not on the disk before, and every file
    is written once.

    Order of a run: `open`; `commit_features`; `commit_alive` for i = 1..N; `finish`. After a kill `open` goes on from
    the last commit, and what was not committed is written again, with the same bytes.
    """

    def __init__(self, storage: Storage, group: Group) -> None:
        self.storage, self._group = storage, group
        found = read_attributes(storage)
        self._ledger = Ledger.read(storage)
        self.columns: list[str] = found.get("columns", [])
        for name in metadata_of(self.columns):
            content = b"" if storage.size(name) is None else storage.read(name)
            if entry(content) != self._ledger.files.get(name):
                raise StoreError(f"{storage}: {name} is damaged or missing; {RECOVERY}")
        self.layout = Layout.from_json(found["layout"])
        self.iterations: int = found["iterations"]
        self.run: dict[str, Any] = found["run"]
        self.grid = Grid.parse(storage.read("theta/zarr.json"), self.layout.size)
        self._forms = forms(self.grid, self.iterations, self.columns)
        # survival so far, by shard, of this process's shards: there if this writer has committed every mask
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
        """Create a store, or open an unfinished one of the same run to go on; `committed` says from where.

        Args:
            path: a folder or an `s3://` URL.
            layout: the index space.
            iterations: N, at least 1.
            run: JSON values that say what made the store (configuration, seeds, versions). Nothing that differs
                between an interrupted and an uninterrupted run.
            group: the processes that write it.
            shard: elements in a shard; chosen by the store's size if not given.
            columns: what a probe measures in each iteration, see `autosparse.lookahead.Probe`.

        Raises:
            StoreError: the store is complete or damaged, or there is something else.
            UserError: it is the unfinished store of another run (names what differs).
        """
        storage = storage_of(path)
        if group.is_main and storage.size(LEDGER) is None:
            create(storage, layout, iterations, run, shard, columns)
        group.gather(None)
        if storage.size(MARKER) is not None:
            raise StoreError(f"{storage} is complete; nothing may be written to it")
        writer = cls(storage, group)
        writer._check(layout, iterations, run, shard, columns)
        if group.is_main:
            writer._clean()
        group.gather(None)
        return writer

    @property
    def committed(self) -> int:
        """Number of masks committed beyond m_0, or -1 where theta and grad are not committed yet."""
        return self._ledger.iterations

    @property
    def store(self) -> TripleStore:
        """A reader of what has been committed so far."""
        return TripleStore.open(str(self.storage), unfinished=True)

    @property
    def ledger(self) -> Ledger:
        """What has been committed so far."""
        return self._ledger

    def commit_features(
        self, theta: Tensor | Values, grad: Tensor | Values, *, beside: Mapping[str, str] = _NOTHING
    ) -> None:
        """Write and commit theta and grad, float32 (P,), and m_0.

        Args:
            theta, grad: each one tensor, or, where that would not fit into memory, a function from a shard's flat
                indices to values.
            beside: digests of what the run will read again, see `autosparse.store.beside`; those of the main process
                count, here and in the other commits.
        """
        if self.committed >= 0:
            raise StoreError(f"{self.storage}: theta and grad were committed before and are never written twice")
        self._commit({"theta": self._by_shard(theta), "grad": self._by_shard(grad)}, density=1.0, beside=beside)

    def commit_alive(
        self, i: int, mask: Mask, probe: Mapping[str, Tensor] | None = None, beside: Mapping[str, str] = _NOTHING
    ) -> None:
        """Write and commit m_i, i = 1..N, and what a probe saw in the training that it was chosen after.

        Args:
            i: follows the iteration that was committed last.
            mask: m_i.
            probe: for each of the store's columns float32, one value for each parameter that m_{i-1} keeps, in order.
            beside: see `commit_features`.
        """
        if i != self.committed + 1 or not 1 <= i <= self.iterations:
            raise StoreError(f"{self.storage}: mask {i} does not follow mask {self.committed} of {self.iterations}")
        if mask.layout != self.layout:
            raise StoreError(f"{self.storage}: the mask is of another layout")
        kept, kind = mask.kept.cpu().numpy(), self._forms["survival"].dtype
        values: dict[str, Values] = {"alive": lambda shard: np.packbits(kept[shard], bitorder="little")}
        alive = keep_count(self._ledger.densities[-1], self.layout.size)
        given = dict(probe or {})
        if [*given] != self.columns:
            raise StoreError(f"{self.storage} wants {self.columns} with each mask, got {[*given]}")
        for name, column in given.items():
            if column.shape != (alive,):
                raise StoreError(f"{self.storage}: {name} has {alive} values, got {tuple(column.shape)}")
            values[name] = column.cpu().numpy().__getitem__
        ends = dict.fromkeys(self.columns, -(-alive // self.grid.shard))
        self._commit(values, i - 1, mask.density, ends, beside)
        for k in range(self._group.rank, self.grid.shards, self._group.size):
            here = kept[self.grid.indices(k)]
            if i == 1:
                self._survival[k] = here.astype(kind)
            elif k in self._survival:
                self._survival[k] += here

    def commit_beside(self, beside: Mapping[str, str]) -> None:
        """Commit digests of files that the run will read again, see `commit_features`."""
        self._commit({}, beside=beside)

    def finish(self, beside: Mapping[str, str] = _NOTHING) -> None:
        """Write and commit survival, the sum of the masks, and mark the store complete."""
        if self.committed != self.iterations:
            raise StoreError(
                f"{self.storage}: {max(self.committed, 0)} of {self.iterations} masks are committed; "
                "the run is not finished"
            )
        if shard_path("survival", 0) not in self._ledger.files:
            store = self.store

            def survival(shard: slice) -> NDArray[Any]:
                k = shard.start // self.grid.shard
                if k in self._survival:
                    return self._survival[k]
                total = np.zeros(shard.stop - shard.start, self._forms["survival"].dtype)
                for i in range(1, self.iterations + 1):
                    total += store.alive(i, shard)
                return total

            self._commit({"survival": survival}, beside=beside)
        if self._group.is_main:
            self.storage.write(MARKER, self._ledger.checksum.encode())
        self._group.gather(None)

    def _check(
        self, layout: Layout, iterations: int, run: dict[str, Any], shard: int | None, columns: Sequence[str]
    ) -> None:
        """Refuse to go on with another run."""
        if self.layout != layout or self.iterations != iterations:
            raise UserError(
                f"{self.storage} is the store of another network or number of iterations; choose another folder"
            )
        if self.columns != list(columns):
            here, there = (" and ".join(names) or "no probe" for names in (columns, self.columns))
            raise UserError(f"{self.storage} is the store of a run with {there}, not {here}; choose another folder")
        if shard and shard != self.grid.shard:
            raise UserError(
                f"{self.storage} is unfinished, with shards of {self.grid.shard}, not {shard}; choose another folder"
            )
        for key in sorted((run.keys() & self.run.keys()) - _CODE):
            if _differ(self.run[key], run[key]):
                raise UserError(
                    f"{self.storage} is the store of a run with {key} = {self.run[key]}, not {run[key]}; "
                    "choose another folder"
                )

    def _clean(self) -> None:
        """Delete what a killed writer left uncommitted."""
        there = self.storage.sizes()  # before the ledger: what is committed meanwhile stays
        committed = Ledger.read(self.storage).files
        for name in there:
            if is_temporary(name) or ("/c/" in name and name not in committed):
                self.storage.remove(name)

    def _by_shard(self, values: Tensor | Values) -> Values:
        if not isinstance(values, Tensor):
            return values
        if values.shape != (self.layout.size,):
            raise StoreError(f"{self.storage} holds {self.layout.size} parameters, got {tuple(values.shape)}")
        return lambda shard: values[shard].cpu().numpy()

    def _commit(
        self,
        arrays: dict[str, Values],
        row: int | None = None,
        density: float | None = None,
        ends: Mapping[str, int] = _NOTHING,
        beside: Mapping[str, str] = _NOTHING,
    ) -> None:
        """Write this process's shards of some arrays, or of rows of some, and commit those of all processes.

        `density` ends an iteration: 1 with theta and grad, then that of each mask. `ends` are the numbers of shards of
        arrays that do not have them all.
        """
        counts = {array: ends.get(array, self.grid.shards) for array in arrays}
        mine = [(array, k) for array in arrays for k in range(self._group.rank, counts[array], self._group.size)]
        with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="write") as writers:
            written = dict(writers.map(lambda it: self._write(it[0], it[1], arrays[it[0]], row), mine))
        self.storage.sync(written)
        files: dict[str, Entry] = {}
        parts = self._group.gather((written, dict(beside)))
        for part, _ in parts:
            files |= part
        densities = self._ledger.densities + ([] if density is None else [density])
        ledger = Ledger(self._ledger.files | files, densities, self._ledger.beside | parts[0][1])
        if self._group.is_main:
            expected = [shard_path(array, k, row) for array in arrays for k in range(counts[array])]
            self._check_written(expected, files)
            ledger.write(self.storage)
        self._group.gather(None)
        self._ledger = ledger

    def _check_written(self, expected: list[str], files: dict[str, Entry]) -> None:
        """Checks that all shards were written and are there, and that no other run is at work on the store."""
        if Ledger.read(self.storage).checksum != self._ledger.checksum:
            raise StoreError(f"{self.storage}: another process has committed meanwhile; one run at a time")
        there = self.storage.sizes()
        for name in expected:
            if name not in files:
                raise StoreError(f"{self.storage}: {name} was not written; the iteration is not finished")
            if there.get(name) != files[name]["size"]:
                raise StoreError(f"{self.storage}: {name} was removed before its commit; one run at a time")

    def _write(self, array: str, k: int, values: Values, row: int | None) -> tuple[str, Entry]:
        """Place shard k; returns its path and its entry in the ledger."""
        name, shard, form = shard_path(array, k, row), self.grid.indices(k), self._forms[array]
        content, index = values(shard), _bytes_of(shard) if array == "alive" else shard
        if content.dtype != form.dtype:
            raise StoreError(f"{self.storage}: {array} holds {form.dtype}, got {content.dtype}")
        expected = index.stop - index.start
        if content.ndim != 1 or (len(content) != expected and array not in self.columns):  # a probe's row ends before
            raise StoreError(f"{self.storage}: {name} holds {expected} values, got {content.shape}")
        content = np.ascontiguousarray(content)
        parts, sums = shards.encode(content, form)
        try:
            self.storage.place(name, parts)
        except FileExistsError:
            raise StoreError(
                f"{self.storage}: another process has written {name}; one run at a time, or, if that one was killed, "
                "run the same again to clean up"
            ) from None
        return name, shard_entry(form.size(len(content)), sums, content, squares=array in ("theta", "grad"))


def _bytes_of(shard: slice) -> slice:
    """Where the bits of a shard lie in a row of alive."""
    return slice(shard.start // 8, -(-shard.stop // 8))


def _differ(one: Any, other: Any) -> bool:
    """Whether two values of a run differ; what one of them does not say was no option when it was made."""
    if isinstance(one, dict) and isinstance(other, dict):
        return any(_differ(one[key], other[key]) for key in one.keys() & other.keys())
    return bool(one != other)
