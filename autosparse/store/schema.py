"""What a triple store consists of: arrays, grid, attributes, ledger and marker.

    triples.zarr/
      zarr.json      group attributes: schema, layout, iterations, the run's configuration and versions
      theta/         float32 (P,)        initial weights
      grad/          float32 (P,)        gradient of the mean loss at the initial weights
      survival/      uint (P,)           number of masks m_1..m_N that keep the parameter
      alive/         uint8 (N, ⌈P/8⌉)    row i - 1: the bits of m_i, lowest bit first
      probe-*/       float32 (N, P)      where the run looked ahead: row i: of the parameters that m_i keeps, in their
                                         order; what lies behind them was never written
      ledger.json    which files were committed, with their size and checksums; sums of squares of theta and grad;
                     the densities of the iterations; digests of what the run keeps beside the store, see `beside`
      complete       the checksum of the final ledger; there only when the store is whole

Shards are files with one owner each, the unit of writing; chunks lie within them and have a checksum each, the unit of
reading. A window is what is read or mixed at once; what a lane is says `order`.

The chain marker → ledger → files → chunks is what makes damage visible: nothing is read that the ledger does not name;
metadata are compared with their entry at opening, by what they mean, shards by their size then and at every reading.
Every chunk has a checksum, the crc32c of its values: it follows them in the file, for any reader of Zarr, and stands in
the ledger, which reading compares. Nothing is compressed: compressors are slower than disks.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from autosparse.errors import StoreError
from autosparse.pruning import Layout
from autosparse.store.shards import Form
from autosparse.store.storage import Storage

SCHEMA_VERSION = 5
ARRAYS = ("theta", "grad", "survival", "alive")
LEDGER, MARKER = "ledger.json", "complete"

Entry = dict[str, Any]  # of a file: its size, and its crc32c or, for a shard, see `shard_entry`

WINDOW = 1 << 22  # elements read or summed at a time: a fraction of a large shard, which need not be held whole

_CHUNK = 1 << 18  # elements; one checksum, the unit of reading: small enough for many to be mixed in memory
_SHARD = 1 << 24  # elements; one file, the unit of writing
_SMALLEST_SHARD = 1 << 12
_BLOCK = 1 << 15  # elements whose squares are summed in the cache


def metadata_of(columns: Sequence[str]) -> list[str]:
    """The files of metadata of a store with these columns beside `ARRAYS`."""
    return ["zarr.json", *(f"{array}/zarr.json" for array in (*ARRAYS, *columns))]


@dataclass(frozen=True)
class Grid:
    """How the flat index space is cut into shards and chunks.

    The rows of `alive` are cut at the same places, so shard k of every array is about the same parameters.
    """

    size: int
    shard: int
    chunk: int

    @classmethod
    def of(cls, size: int, shard: int | None = None) -> "Grid":
        """The grid for `size` parameters: shards of 2^24, smaller for small stores, chunks of at most 2^18."""
        if shard is None:
            shard = _SMALLEST_SHARD
            while shard < _SHARD and shard * 8 < size:
                shard *= 2
        if shard < 8 or shard % 8 or (shard > _CHUNK and shard % _CHUNK):
            raise StoreError(f"a shard must be a multiple of 8 elements, and of {_CHUNK} where larger; got {shard}")
        return cls(size, shard, min(shard, _CHUNK))

    @classmethod
    def parse(cls, metadata: bytes, size: int) -> "Grid":
        """The grid of a store, by its theta/zarr.json."""
        found = json.loads(metadata)
        shard, chunk = (part["configuration"]["chunk_shape"][0] for part in (found["chunk_grid"], found["codecs"][0]))
        return cls(size, shard, chunk)

    @property
    def shards(self) -> int:
        """Number of shards of a one-dimensional array."""
        return -(-self.size // self.shard)

    def indices(self, k: int) -> slice:
        """The flat indices of shard k."""
        return slice(k * self.shard, min((k + 1) * self.shard, self.size))


def survival_dtype(iterations: int) -> np.dtype[Any]:
    """The narrowest unsigned type that holds 0..N and one impossible value, the fill value."""
    return np.min_scalar_type(iterations + 1)


@dataclass
class Ledger:
    """What was committed: files by their path in the store, one density for each iteration, m_0 first, and digests of
    what the run keeps beside the store."""

    files: dict[str, Entry] = field(default_factory=dict)
    densities: list[float] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)

    @property
    def iterations(self) -> int:
        """Number of committed masks beyond m_0, or -1 where theta and grad are not committed."""
        return len(self.densities) - 1

    @property
    def checksum(self) -> str:
        """What a marker holds."""
        return _digest(self._body)

    def mean_square(self, array: str, grid: Grid) -> float:
        """The mean square of theta or grad, summed in the order of the index: the same for any number of writers."""
        total = 0.0  # not by `sum`, which from Python 3.12 on compensates for rounding
        for k in range(grid.shards):
            for square in self.files[shard_path(array, k)]["squares"]:
                total += square
        return total / grid.size

    def write(self, storage: Storage) -> None:
        """Replace the ledger, durably."""
        text = json.dumps({"digest": self.checksum, "ledger": self._body}) + "\n"
        storage.write(LEDGER, text.encode())

    @property
    def _body(self) -> str:
        body = asdict(self)
        if not self.beside:  # so that a ledger from before they were there is what it was
            del body["beside"]
        return json.dumps(body, sort_keys=True)

    @classmethod
    def read(cls, storage: Storage) -> "Ledger":
        """The ledger of a store.

        Raises:
            StoreError: missing or damaged.
        """
        try:
            content = storage.read(LEDGER)
        except FileNotFoundError:
            raise StoreError(f"{storage}: {LEDGER} is missing; {RECOVERY}") from None
        try:
            outer = json.loads(content)
            if _digest(outer["ledger"]) != outer["digest"]:
                raise ValueError("checksum mismatch")
            return cls(**json.loads(outer["ledger"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{storage}: {LEDGER} is damaged ({error}); {RECOVERY}") from error


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


RECOVERY = "delete the store and run the IRP again"


def entry(content: bytes) -> Entry:
    """Size and crc32c of a file of metadata by what it means: as this package writes it, through zarr-python.

    `zarr.consolidate_metadata`, which many readers ask for, adds a copy of the arrays' metadata to those of the group.
    """
    with contextlib.suppress(ValueError):
        if isinstance(found := json.loads(content), dict):
            found.pop("consolidated_metadata", None)
            content = json.dumps(found, indent=2).encode()
    return {"size": len(content), "crc32c": crc32c(content)}


def shard_entry(size: int, sums: Sequence[int], values: NDArray[Any], squares: bool) -> Entry:
    """Size of a shard's file, checksums of its chunks and, if asked for, the sums of squares of its windows."""
    found: Entry = {"size": size, "chunks": "".join(f"{checksum:08x}" for checksum in sums)}
    if squares:
        with np.errstate(invalid="ignore"):  # what is no number is for the reader to refuse
            found["squares"] = [_square_sum(values[k : k + WINDOW]) for k in range(0, len(values), WINDOW)]
    return found


def checksums(of: Entry, first: int = 0, count: int | None = None) -> list[int]:
    """Those of a shard's chunks, from one of them on."""
    text = of["chunks"][8 * first : None if count is None else 8 * (first + count)]
    return [int(text[k : k + 8], 16) for k in range(0, len(text), 8)]


def _square_sum(values: NDArray[Any]) -> float:
    """As `np.square(values, dtype=np.float64).sum()`, bit for bit: in halves as numpy adds, that fit into the cache."""
    if len(values) <= _BLOCK:
        return float(np.square(values, dtype=np.float64).sum())
    half = len(values) // 2
    half -= half % 8
    return _square_sum(values[:half]) + _square_sum(values[half:])


def forms(grid: "Grid", iterations: int, columns: Sequence[str]) -> dict[str, Form]:
    """How the shards of each array look. What was never written cannot pass for data: NaN, an impossible count."""
    chunks, survival = grid.shard // grid.chunk, survival_dtype(iterations)
    floats = Form(np.dtype("<f4"), np.float32(np.nan), grid.chunk, chunks)
    return {
        "theta": floats,
        "grad": floats,
        "survival": Form(survival.newbyteorder("<"), np.iinfo(survival).max, grid.chunk, chunks),
        "alive": Form(np.dtype("u1"), 0, grid.chunk // 8, chunks),
        **dict.fromkeys(columns, floats),
    }


def attributes(layout: Layout, iterations: int, run: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """The group attributes."""
    return {
        "schema": SCHEMA_VERSION,
        "iterations": iterations,
        "columns": list(columns),
        "layout": layout.to_json(),
        "run": run,
    }


def shard_path(array: str, shard: int, row: int | None = None) -> str:
    """Path of a shard in the store, by zarr's default chunk keys."""
    return f"{array}/c/{shard}" if row is None else f"{array}/c/{row}/{shard}"
