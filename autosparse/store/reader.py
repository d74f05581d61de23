"""Read a triple store: only values that were written and committed are returned."""

import contextlib
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
from autosparse.store import schema
from autosparse.store.schema import MARKER, METADATA, RECOVERY, Grid, shard_path
from autosparse.store.shards import ShardFormat
from autosparse.store.storage import Storage, storage_of

_READERS = 2  # threads of a scan


class TripleStore:
    """The triples of one run, read in slices of the flat index space.

    A store can be pickled (the other process reopens it) and read by several threads at once.

    Attributes:
        storage: folder or bucket of the store.
        layout: index space of the parameters.
        grid: cut of the index space into shards and chunks.
        formats: format of each array's shards.
        iterations: number of iterations of the run, N.
        columns: names of the columns that a probe measured in each iteration, see `probe`.
        densities: density of m_0, m_1, ..., as far as committed.
        run: metadata of the run, as given to `TripleWriter.open`.
        ledger: record of everything that was committed.
        complete: True if the run has finished.
        fingerprint: hex digits that change with every committed byte.

    Examples:
        >>> from autosparse.store import TripleStore
        >>> store = TripleStore.open("runs/irp/NAME")
        >>> store.theta(slice(0, 1000)).shape, bool(store.survival(slice(0, 1000)).max() <= store.iterations)
        ((1000,), True)
        >>> store.mask(store.iterations).density < 0.02
        True
    """

    def __init__(self, storage: Storage, unfinished: bool) -> None:
        self.storage, self._opened_as = storage, (str(storage), unfinished)
        marker = None
        with contextlib.suppress(FileNotFoundError):
            marker = storage.read(MARKER)  # It is read before the ledger: a writer may finish in between.
        attributes, self.ledger = schema.read_metadata(storage)
        self.fingerprint = self.ledger.checksum
        self.complete = marker is not None
        if self.complete and marker != self.fingerprint.encode():
            raise StoreError(f"{storage}: {MARKER} is damaged or belongs to another ledger; {RECOVERY}")
        if not self.complete and not unfinished:
            raise StoreError(
                f"{storage} is not finished ({max(self.ledger.committed, 0)} of {attributes['iterations']} "
                "iterations); run the same IRP again to finish it"
            )
        self.layout = Layout.from_json(attributes["layout"])
        self.iterations: int = attributes["iterations"]
        self.columns: list[str] = attributes["columns"]
        self.run: dict[str, Any] = attributes["run"]
        self.densities = self.ledger.densities
        self.grid = Grid.read(storage, self.layout.size)
        self.formats = schema.array_formats(self.grid, self.iterations, self.columns)
        sizes = storage.sizes()  # One request per file would take long in a bucket.
        for name in self.ledger.files:
            if not name.endswith(METADATA):
                self._check_size(name, sizes.get(name))

    @classmethod
    def open(cls, path: str | Path, unfinished: bool = False) -> "TripleStore":
        """Open a store for reading.

        Metadata files are compared with the ledger by content, shards by existence and size. Checksums of chunks are
        verified when the chunks are read, or all at once by `problems`.

        Args:
            path: folder or `s3://` URL of the store, or of the run that holds it as `triples.zarr`.
            unfinished: whether to accept a store whose run has not finished.

        Raises:
            StoreError: the store is missing, unfinished, damaged (names array and shard) or of another schema.
        """
        nested = storage_of(f"{path}/triples.zarr")
        return cls(nested if nested.size("zarr.json") is not None else storage_of(path), unfinished)

    def __reduce__(self) -> Any:
        return TripleStore.open, self._opened_as

    def __len__(self) -> int:
        """Return the number of triples, P."""
        return self.layout.size

    def theta(self, index: slice = slice(None)) -> NDArray[np.float32]:
        """Return initial weights, float32."""
        return self._read("theta", index)

    def grad(self, index: slice = slice(None)) -> NDArray[np.float32]:
        """Return gradients at the initial weights, float32."""
        return self._read("grad", index)

    def survival(self, index: slice = slice(None)) -> NDArray[np.unsignedinteger[Any]]:
        """Return the number of masks that keep each parameter, 0..N, in the narrowest unsigned type."""
        return self._read("survival", index)

    def scan(self, *arrays: str) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:
        """Yield the whole store in blocks, in order: their flat indices, at most 2^22, and the arrays by name.

        `arrays` are names among theta, grad and survival. The next two blocks are read meanwhile.
        """
        step = min(self.grid.shard, schema.BLOCK)
        blocks = [slice(start, min(start + step, len(self))) for start in range(0, len(self), step)]
        with ThreadPoolExecutor(_READERS, thread_name_prefix="scan") as readers:

            def submit(block: slice) -> dict[str, Any]:
                return {name: readers.submit(self._read, name, block) for name in arrays}

            pending = [submit(block) for block in blocks[:2]]
            try:
                for number, block in enumerate(blocks):
                    pending += map(submit, blocks[number + 2 : number + 3])
                    yield block, {name: future.result() for name, future in pending.pop(0).items()}
            finally:
                readers.shutdown(cancel_futures=True)

    def alive(self, i: int, index: slice = slice(None)) -> NDArray[np.bool_]:
        """Return whether m_i keeps each parameter.

        Args:
            i: number of the mask, 0..N, as far as committed.
            index: slice of the flat index space that starts at a multiple of 8.
        """
        start, stop = _bounds(index, len(self))
        if not 0 <= i < len(self.densities):
            raise StoreError(f"{self.storage}: mask {i} does not exist; {len(self.densities) - 1} are committed")
        if start % 8:
            raise ValueError(f"a slice of alive must start at a multiple of 8, got {index}")
        if i == 0:
            return np.ones(stop - start, np.bool_)
        bits = self._read("alive", slice(start // 8, -(-stop // 8)), row=i - 1)
        return np.unpackbits(bits, count=stop - start, bitorder="little").view(np.bool_)

    def mask(self, i: int) -> Mask:
        """Return m_i as a mask; i = 0..N, as far as committed."""
        return Mask(self.layout, torch.from_numpy(self.alive(i)))

    def probe(self, column: str, i: int) -> NDArray[np.float32]:
        """Return what a probe measured in the training under m_i: float32, one value per parameter that m_i keeps.

        Args:
            column: one of `columns`, see `autosparse.lookahead.Probe`.
            i: number of the iteration, 0..N-1, as far as committed.
        """
        if column not in self.columns:
            advice = f"only {', '.join(self.columns)}" if self.columns else "run IRP with --probe-steps to measure it"
            raise StoreError(f"{self.storage} has no column {column}, {advice}")
        if not 0 <= i < len(self.densities) - 1:
            raise StoreError(f"{self.storage}: iteration {i} does not exist; {len(self.densities) - 1} are committed")
        values: NDArray[np.float32] = self._read(column, slice(keep_count(self.densities[i], len(self))), row=i)
        return values

    @property
    def mean_squares(self) -> dict[str, float]:
        """Mean squares of theta and grad over the whole network, from the ledger."""
        totals = {"theta": 0.0, "grad": 0.0}
        for array in totals:
            for k in range(self.grid.shards):
                for square in self.ledger.files[shard_path(array, k)]["squares"]:
                    totals[array] += square  # `sum` compensates for rounding from Python 3.12 on.
        return {array: total / len(self) for array, total in totals.items()}

    def problems(self) -> list[str]:
        """Read every byte and return all problems, one line each.

        Every file is compared with the ledger, every chunk with its checksum. In a complete store, survival must be the
        sum of the masks, the masks nested and of the densities in the ledger, and all floats finite.
        """
        lines = []
        for name in self.ledger.files:
            if not name.endswith(METADATA):  # compared when the store was opened
                try:
                    self.check(name)
                except StoreError as error:
                    lines.append(str(error))
        if not lines and self.complete:
            lines = [f"{self.storage}: {line}" for line in self._contradictions()]
        return lines

    def _contradictions(self) -> Iterator[str]:
        """Yield what is wrong between the arrays of a complete store, shard by shard."""
        counts = np.zeros(self.iterations + 1, np.int64)
        for shard in map(self.grid.indices, range(self.grid.shards)):
            place = f"in {shard.start}:{shard.stop}"
            survival = np.zeros(shard.stop - shard.start, np.int64)
            before = self.alive(0, shard)
            for i in range(self.iterations + 1):
                alive = self.alive(i, shard)
                if (alive & ~before).any():
                    yield f"mask {i} revives parameters {place}"
                counts[i] += alive.sum()
                survival += alive if i else 0
                before = alive
            if not np.array_equal(survival, self.survival(shard)):
                yield f"survival is not the sum of the masks {place}"
            for name in ("theta", "grad"):
                if not np.isfinite(self._read(name, shard)).all():
                    yield f"{name} is not finite {place}"
        for name in self.columns:
            for i in range(self.iterations):
                if not np.isfinite(self.probe(name, i)).all():
                    yield f"{name} is not finite in iteration {i}"
        for i, density in enumerate(self.densities):
            if counts[i] != (expected := keep_count(density, len(self))):
                yield f"mask {i} keeps {counts[i]}, the ledger says {expected}"

    def check(self, name: str) -> None:
        """Compare every byte of a shard's file with the ledger, and raise `StoreError` that names damaged chunks."""
        self._check_size(name, self.storage.size(name))
        array, _, key = name.partition("/c/")
        *rows, k = map(int, key.split("/"))
        form = self.formats[array]
        count = min(self._length(array, rows[0] if rows else None) - k * form.length, form.length)
        with self.storage.open(name, 0, form.size(count)) as file:
            damage = [*form.damage(file, count, schema.checksums(self.ledger.files[name]))]
        if damage:
            raise StoreError(f"{self.storage}: {name} is damaged (checksum), {', '.join(damage)}; {RECOVERY}")

    def _check_size(self, name: str, size: int | None) -> None:
        """Raise `StoreError` unless a shard has the size that was committed."""
        committed = self.ledger.files[name]["size"]
        if size is None:
            raise StoreError(f"{self.storage}: {name} is missing; {RECOVERY}")
        if size != committed:
            raise StoreError(f"{self.storage}: {name} has {size} bytes, {committed} were committed; {RECOVERY}")

    def _length(self, array: str, row: int | None) -> int:
        """Return the number of values of an array or of a row of it; a row of a probe is shorter than its array."""
        length = keep_count(self.densities[row], len(self)) if row is not None and array in self.columns else len(self)
        return -(-length // 8) if array == "alive" else length

    def _read(self, array: str, index: slice, row: int | None = None) -> Any:
        """Return the values of a slice, read in whole chunks that are compared with the ledger."""
        form, length = self.formats[array], self._length(array, row)
        start, stop = _bounds(index, length)
        first, last = start // form.chunk * form.chunk, min(-(-stop // form.chunk) * form.chunk, length)
        out = np.empty(last - first, form.dtype)
        for k in range(start // form.length, -(-stop // form.length)):
            begin, end = max(first, k * form.length), min(last, (k + 1) * form.length)
            number = (begin - k * form.length) // form.chunk
            self._read_chunks(shard_path(array, k, row), form, number, out[begin - first : end - first])
        return out[start - first : stop - first]

    def _read_chunks(self, name: str, form: ShardFormat, first: int, out: NDArray[Any]) -> None:
        """Read whole chunks of a shard, starting at chunk `first`, into `out`."""
        if name not in self.ledger.files:
            raise StoreError(f"{self.storage}: {name} was never committed; {RECOVERY}")
        count = -(-len(out) // form.chunk)
        try:
            with self.storage.open(name, first * form.stride, count * form.stride) as file:
                form.read(file, out, schema.checksums(self.ledger.files[name], first, count))
        except (ValueError, FileNotFoundError) as error:
            self.check(name)
            raise StoreError(f"{self.storage}: {name} could not be read ({error}), but is whole; try again") from error


def _bounds(index: slice, length: int) -> tuple[int, int]:
    """Return the first index of a slice and the one after its last; raise on a step, and on anything but a slice."""
    if not isinstance(index, slice):
        raise ValueError(f"a store is read in slices, such as slice(0, 1000), got {index!r}")
    start, stop, step = index.indices(length)
    if step != 1:
        raise ValueError(f"a slice must have no step, got {index}")
    return start, max(start, stop)
