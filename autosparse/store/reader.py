"""Reading a triple store: nothing comes back as data that was not written and committed."""

import errno
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autosparse.errors import StoreError
from autosparse.pruning import Layout, Mask
from autosparse.pruning.schedule import keep_count
from autosparse.store import shards
from autosparse.store.schema import (
    MARKER,
    RECOVERY,
    SCHEMA_VERSION,
    WINDOW,
    Grid,
    Ledger,
    checksums,
    entry,
    forms,
    metadata_of,
    shard_path,
)
from autosparse.store.storage import Storage, storage_of

_ERRORS = (ValueError, RuntimeError, OSError)  # a checksum, the machine, the disk


class TripleStore:
    """The triples of one run, read in slices of the flat index space.

    May be pickled (the other process reopens it), and read by several threads at once.

    Attributes:
        storage: where it lies.
        layout: the index space.
        grid: how it is cut into shards and chunks.
        iterations: N.
        columns: what a probe measured in each iteration, by name, see `probe`.
        densities: share kept by m_0, m_1, ... as far as committed.
        run: what made the store, as it was given to `TripleWriter.open`.
        beside: digests of what the run keeps beside the store, see `autosparse.store.beside`.
        complete: whether the run was finished.
        fingerprint: hex digits that change with any byte committed.
    """

    def __init__(self, storage: Storage, unfinished: bool) -> None:
        self.storage, self._opened_as = storage, (str(storage), unfinished)
        attributes = read_attributes(storage)
        marker = _marker(storage)  # before the ledger: a writer may finish meanwhile
        self._ledger = Ledger.read(storage)
        self.fingerprint = self._ledger.checksum
        if marker not in (None, self.fingerprint.encode()):
            raise StoreError(f"{storage}: {MARKER} is damaged or of another ledger; {RECOVERY}")
        self.complete = marker is not None
        self.columns: list[str] = attributes.get("columns", [])  # its absence is damage, which the check finds
        self._metadata = metadata_of(self.columns)
        for name in self._metadata:
            self.check(name)
        if not self.complete and not unfinished:
            raise StoreError(
                f"{storage} is not finished ({max(self._ledger.iterations, 0)} of {attributes['iterations']} "
                "iterations); run the same IRP again to finish it"
            )
        self.layout = Layout.from_json(attributes["layout"])
        self.iterations: int = attributes["iterations"]
        self.run: dict[str, Any] = attributes["run"]
        self.densities: list[float] = self._ledger.densities
        self.beside: dict[str, str] = self._ledger.beside
        self.grid = Grid.parse(storage.read("theta/zarr.json"), self.layout.size)
        self._forms = forms(self.grid, self.iterations, self.columns)
        sizes = storage.sizes()  # at once: a request for each would take long in a bucket
        for name in self._ledger.files:
            self._compare(name, sizes.get(name))

    @classmethod
    def open(cls, path: str | Path, unfinished: bool = False) -> "TripleStore":
        """Open a store for reading.

        The metadata are compared with the ledger by what they mean, the shards by existence and size; their content is
        checked when it is read (a checksum a chunk), or all at once by `verify`.

        Args:
            path: a folder or an `s3://` URL: of the store, or of the run that holds it as `triples.zarr`.
            unfinished: whether a store whose run has not ended will do.

        Raises:
            StoreError: no store, an unfinished or damaged one (names array and shard), or one of another schema.
            UserError: a URL that is none of a store, or obstore is not installed.
        """
        storage = storage_of(path)
        nested = storage.child("triples.zarr")
        return cls(nested if nested.size("zarr.json") is not None else storage, unfinished)

    def __reduce__(self) -> Any:
        return TripleStore.open, self._opened_as

    def __len__(self) -> int:
        """P, the number of triples."""
        return self.layout.size

    def theta(self, index: slice = slice(None)) -> NDArray[np.float32]:
        """Initial weights, float32."""
        return self._read("theta", index)

    def grad(self, index: slice = slice(None)) -> NDArray[np.float32]:
        """Gradients at the initial weights, float32."""
        return self._read("grad", index)

    def survival(self, index: slice = slice(None)) -> NDArray[np.unsignedinteger[Any]]:
        """Number of masks that keep each parameter, 0..N."""
        return self._read("survival", index)

    def scan(
        self, *arrays: str, threads: int = 2, share: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:
        """All of the store, a window at a time and in order, the next ones being read meanwhile.

        Args:
            arrays: which of theta, grad and survival.
            threads: that read, each one array of one window.
            share: (k, n) for the windows k, k + n, k + 2 n, ... alone.

        Yields:
            The window, of 2^22 parameters at most, and the arrays by their names.
        """
        step = min(self.grid.shard, WINDOW)
        first, every = share
        windows = [slice(s, min(s + step, len(self))) for s in range(first * step, len(self), every * step)]
        with ThreadPoolExecutor(threads, thread_name_prefix="scan") as readers:

            def ask(window: slice) -> dict[str, Any]:
                return {name: readers.submit(self._read, name, window) for name in arrays}

            ahead = [ask(window) for window in windows[:2]]
            try:
                for number, window in enumerate(windows):
                    if number + 2 < len(windows):
                        ahead.append(ask(windows[number + 2]))
                    yield window, {name: future.result() for name, future in ahead.pop(0).items()}
            finally:
                readers.shutdown(cancel_futures=True)

    def alive(self, i: int, index: slice = slice(None)) -> NDArray[np.bool_]:
        """Whether m_i keeps each parameter; i = 0..N, as far as committed. The slice starts on a multiple of 8."""
        start, stop, step = index.indices(len(self))
        if not 0 <= i < len(self.densities):
            raise StoreError(
                f"{self.storage}: mask {i} is not there; {len(self.densities) - 1} iterations are committed"
            )
        if start % 8 or step != 1:
            raise ValueError(f"a slice of alive starts on a multiple of 8 and has no step, got {index}")
        stop = max(start, stop)
        if i == 0:
            return np.ones(stop - start, np.bool_)
        bits = self._read("alive", slice(start // 8, -(-stop // 8)), row=i - 1)
        return np.unpackbits(bits, count=stop - start, bitorder="little").view(np.bool_)

    def mask(self, i: int) -> Mask:
        """m_i as a mask; i = 0..N, as far as committed."""
        return Mask(self.layout, torch.from_numpy(self.alive(i)))

    def probe(self, column: str, i: int) -> NDArray[np.float32]:
        """What a probe saw in the training under m_i, i = 0..N-1: float32, a value for each parameter that m_i keeps.

        Args:
            column: one of `columns`, see `autosparse.lookahead.Probe`.
            i: the iteration, as far as committed.

        Raises:
            StoreError: there is no such column, or the iteration is not committed; damage.
        """
        if column not in self.columns:
            raise StoreError(
                f"{self.storage} has no column {column}; run IRP with --probe-steps to have it measured"
                if not self.columns
                else f"{self.storage} has no column {column}, only {', '.join(self.columns)}"
            )
        if not 0 <= i < len(self.densities) - 1:
            raise StoreError(f"{self.storage}: iteration {i} is not there; {len(self.densities) - 1} are committed")
        values: NDArray[np.float32] = self._read(column, slice(keep_count(self.densities[i], len(self))), row=i)
        return values

    @property
    def mean_squares(self) -> dict[str, float]:
        """The mean squares of theta and of grad over the whole network, as the ledger has them; reads nothing."""
        return {array: self._ledger.mean_square(array, self.grid) for array in ("theta", "grad")}

    @property
    def files(self) -> list[str]:
        """Every file committed, by its path in the store."""
        return list(self._ledger.files)

    @property
    def nbytes(self) -> int:
        """Bytes in the files committed."""
        return sum(entry["size"] for entry in self._ledger.files.values())

    def check(self, name: str) -> None:
        """Compare a file with the ledger, all of it.

        Raises:
            StoreError: it is missing, not committed, or damaged (names the chunks).
        """
        self._compare(name, self.storage.size(name))
        if name in self._metadata:
            if entry(self.storage.read(name)) != self._ledger.files[name]:
                raise StoreError(f"{self.storage}: {name} is damaged (checksum); {RECOVERY}")
        else:
            form, count = self._shard(name)
            with self.storage.errors():
                damage = [*shards.damaged(self.storage, name, form, count, checksums(self._ledger.files[name]))]
            if damage:
                raise StoreError(f"{self.storage}: {name} is damaged (checksum), {', '.join(damage)}; {RECOVERY}")

    def _compare(self, name: str, size: int | None) -> None:
        """Checks that a file was committed, and is there with the size it had then."""
        expected = self._ledger.files.get(name)
        if expected is None:
            raise StoreError(f"{self.storage}: {name} was never committed; {RECOVERY}")
        if size is None:
            raise StoreError(f"{self.storage}: {name} is missing; {RECOVERY}")
        if size != expected["size"] and name not in self._metadata:  # which are compared by what they mean
            raise StoreError(f"{self.storage}: {name} has {size} bytes, {expected['size']} were committed; {RECOVERY}")

    def _shard(self, name: str) -> tuple[shards.Form, int]:
        """How a shard's file looks, and how many values it has."""
        array, _, key = name.partition("/c/")
        *rows, shard = map(int, key.split("/"))
        return self._forms[array], self._count(array, shard, rows[0] if rows else None)

    def _count(self, array: str, shard: int, row: int | None) -> int:
        """Values in a shard: a row of a probe ends before its array does."""
        length = keep_count(self.densities[row], len(self)) if row is not None and array in self.columns else len(self)
        span = self.grid.indices(shard)
        values = min(span.stop, length) - span.start
        return -(-values // 8) if array == "alive" else values

    def _read(self, array: str, index: slice, row: int | None = None) -> Any:
        """The values of a slice, by way of whole chunks, each compared with the ledger."""
        form = self._forms[array]
        width = form.chunk * form.chunks
        start, stop, step = index.indices(-(-len(self) // 8) if array == "alive" else len(self))
        if step != 1:
            raise ValueError(f"a slice has no step, got {index}")
        stop = max(start, stop)
        names = {k: shard_path(array, k, row) for k in range(start // width, -(-stop // width))}
        for name in names.values():
            self._compare(name, self.storage.size(name))
        first = start // form.chunk * form.chunk
        ends = {k: k * width + self._count(array, k, row) for k in names}
        last = min(-(-stop // form.chunk) * form.chunk, max(ends.values(), default=first))
        out = np.empty(last - first, form.dtype)
        try:
            with self.storage.errors():
                for k, name in names.items():
                    begin, end = max(first, k * width), min(last, ends[k])
                    number, count = (begin - k * width) // form.chunk, -(-(end - begin) // form.chunk)
                    sums = checksums(self._ledger.files[name], number, count)
                    shards.read(self.storage, name, form, number, out[begin - first : end - first], sums)
        except StoreError:
            raise
        except _ERRORS as error:
            if not _is_damage(error):
                raise
            for name in names.values():
                self.check(name)
            raise StoreError(f"{self.storage}: {array} cannot be read ({error}), but is whole; try again") from error
        return out[start - first : stop - first]


def _is_damage(error: Exception) -> bool:
    """Whether the store may be at fault, and not the machine: no more files, no more threads, no permission."""
    if isinstance(error, OSError):
        return error.errno in (None, errno.EIO, errno.ENOENT)
    return "start new thread" not in str(error)


def read_attributes(storage: Storage) -> dict[str, Any]:
    """The group attributes.

    Raises:
        StoreError: no triple store, or one of another schema.
    """
    if storage.size("zarr.json") is None:
        raise StoreError(f"no triple store at {storage}: zarr.json is missing")
    try:
        found: dict[str, Any] = json.loads(storage.read("zarr.json"))["attributes"]
        schema = int(found["schema"])
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{storage} is no triple store: its zarr.json is damaged") from error
    if schema != SCHEMA_VERSION:
        advice = "update autosparse" if schema > SCHEMA_VERSION else "run the IRP again"
        raise StoreError(f"{storage} has schema {schema}, this version reads {SCHEMA_VERSION}; {advice}")
    return found


def _marker(storage: Storage) -> bytes | None:
    try:
        return storage.read(MARKER)
    except FileNotFoundError:
        return None
