"""The files of a triple store: arrays, grid, ledger and completion marker.

    triples.zarr/
      zarr.json      group attributes: schema, layout, iterations, the run's options and versions
      theta/         float32 (P,)        initial weights
      grad/          float32 (P,)        gradient of the mean loss at the initial weights
      survival/      uint (P,)           number of masks m_1..m_N that keep the parameter
      alive/         uint8 (N, ⌈P/8⌉)    row i - 1: the bits of m_i, lowest bit first
      probe-*/       float32 (N, P)      if the run looked ahead: row i holds one value per parameter that m_i keeps, in
                                         their order; the rest of the row is never written
      ledger.json    committed files with size and checksums; sums of squares of theta and grad; the density of every
                     iteration; digests of sidecar files (see `sidecars`)
      complete       checksum of the final ledger; exists only in a complete store

A shard is a file with one owner, and the unit of writing. A chunk is a part of a shard with its own checksum, and the
unit of reading.

Damage is found along the chain marker → ledger → files → chunks. Only files that the ledger names are read. Opening
compares the content of metadata files and the size of shards with the ledger. Every read compares the size of the shard
and the crc32c of each chunk. The crc32c also follows the chunk in its file, for other readers of Zarr. Nothing is
compressed: compressors are slower than disks.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from autosparse.errors import StoreError
from autosparse.store.shards import ShardFormat
from autosparse.store.storage import Storage

SCHEMA_VERSION = 5
LEDGER, MARKER, METADATA = "ledger.json", "complete", "zarr.json"
RECOVERY = "delete the store and run the IRP again"

Entry = dict[str, Any]  # see `metadata_entry` and `shard_entry`

BLOCK = 1 << 22  # elements scanned or summed at a time; a large shard has several blocks
_CHUNK = 1 << 18  # elements; small enough for a shuffle buffer to hold many
_SHARD = 1 << 24  # elements
_SMALLEST_SHARD = 1 << 12
_CACHED = 1 << 15  # elements whose squares are summed within the processor's cache


@dataclass(frozen=True)
class Grid:
    """The cut of the flat index space into shards and chunks.

    The rows of `alive` are cut at the same indices: shard k of every array is about the same parameters.
    """

    size: int  # number of parameters, P
    shard: int  # number of parameters per shard
    chunk: int  # number of parameters per chunk

    @classmethod
    def of(cls, size: int, shard: int | None = None) -> "Grid":
        """Return the grid for `size` parameters: shards of 2^24, smaller in small stores, chunks of at most 2^18.

        A given shard is a multiple of 8 elements, and of 2^18 where it is larger.
        """
        if shard is None:
            shard = _SMALLEST_SHARD
            while shard < _SHARD and shard * 8 < size:
                shard *= 2
        return cls(size, shard, min(shard, _CHUNK))

    @classmethod
    def read(cls, storage: Storage, size: int) -> "Grid":
        """Return the grid of a store of `size` parameters."""
        metadata = json.loads(storage.read(f"theta/{METADATA}"))
        return cls.of(size, metadata["chunk_grid"]["configuration"]["chunk_shape"][0])

    @property
    def shards(self) -> int:
        """Number of shards of a one-dimensional array."""
        return -(-self.size // self.shard)

    def indices(self, k: int) -> slice:
        """Return the flat indices of shard k."""
        return slice(k * self.shard, min((k + 1) * self.shard, self.size))


@dataclass
class Ledger:
    """The record of committed files, masks and digests."""

    files: dict[str, Entry] = field(default_factory=dict)  # by their paths in the store
    densities: list[float] = field(default_factory=list)  # of the masks, m_0 first
    sidecars: dict[str, str] = field(default_factory=dict)  # digests, see `autosparse.store.sidecars`

    @property
    def committed(self) -> int:
        """Number of committed masks beyond m_0, or -1 before theta and grad are committed."""
        return len(self.densities) - 1

    @property
    def checksum(self) -> str:
        """Hex digest of the ledger, the content of the completion marker."""
        return _digest(self._body)

    def write(self, storage: Storage) -> None:
        """Write or replace the ledger durably."""
        text = json.dumps({"digest": self.checksum, "ledger": self._body}) + "\n"
        storage.write(LEDGER, text.encode())

    @property
    def _body(self) -> str:
        body: dict[str, Any] = {"files": self.files, "densities": self.densities}
        if self.sidecars:
            body["beside"] = self.sidecars
        return json.dumps(body, sort_keys=True)

    @classmethod
    def read(cls, storage: Storage) -> "Ledger":
        """Return the ledger of a store, or raise `StoreError` if it is missing or damaged."""
        try:
            content = storage.read(LEDGER)
        except FileNotFoundError:
            raise StoreError(f"{storage}: {LEDGER} is missing; {RECOVERY}") from None
        try:
            outer = json.loads(content)
            if _digest(outer["ledger"]) != outer["digest"]:
                raise ValueError("checksum mismatch")
            body = json.loads(outer["ledger"])
            return cls(body["files"], body["densities"], body.get("beside", {}))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{storage}: {LEDGER} is damaged ({error}); {RECOVERY}") from error


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def read_metadata(storage: Storage) -> tuple[dict[str, Any], Ledger]:
    """Return the group attributes and the ledger of a store, or raise `StoreError`."""
    try:
        attributes: dict[str, Any] = json.loads(storage.read(METADATA))["attributes"]
        schema = int(attributes["schema"])
    except FileNotFoundError:
        raise StoreError(f"no triple store at {storage}; name the folder of a run of autosparse irp") from None
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{storage} is not a triple store: its {METADATA} is damaged") from error
    if schema != SCHEMA_VERSION:
        advice = "update autosparse" if schema > SCHEMA_VERSION else "run the IRP again"
        raise StoreError(f"{storage} has schema {schema}, this version reads {SCHEMA_VERSION}; {advice}")
    ledger = Ledger.read(storage)
    for name, entry in ledger.files.items():
        if name.endswith(METADATA):
            content = b"" if storage.size(name) is None else storage.read(name)
            if metadata_entry(content) != entry:
                raise StoreError(f"{storage}: {name} is damaged or missing; {RECOVERY}")
    return attributes, ledger


def metadata_entry(content: bytes) -> Entry:
    """Return size and crc32c of a metadata file as zarr-python formats its JSON.

    The copy of the arrays' metadata that `zarr.consolidate_metadata` adds to the group's is ignored.
    """
    with contextlib.suppress(ValueError):
        if isinstance(values := json.loads(content), dict):
            values.pop("consolidated_metadata", None)
            content = json.dumps(values, indent=2).encode()
    return {"size": len(content), "crc32c": crc32c(content)}


def shard_entry(size: int, sums: Sequence[int], values: NDArray[Any], squares: bool) -> Entry:
    """Return the entry of a shard: its bytes, the crc32c of its chunks and, if wanted, the sum of squares per block."""
    entry: Entry = {"size": size, "chunks": "".join(f"{checksum:08x}" for checksum in sums)}
    if squares:
        with np.errstate(invalid="ignore"):  # NaN and infinity are reported when the sums are used
            entry["squares"] = [_square_sum(values[k : k + BLOCK]) for k in range(0, len(values), BLOCK)]
    return entry


def checksums(entry: Entry, first: int = 0, count: int | None = None) -> list[int]:
    """Return the crc32c of `count` chunks of a shard, or of all, starting at chunk `first`."""
    text = entry["chunks"][8 * first : None if count is None else 8 * (first + count)]
    return [int(text[k : k + 8], 16) for k in range(0, len(text), 8)]


def _square_sum(values: NDArray[Any]) -> float:
    """Return `np.square(values, dtype=np.float64).sum()`, bit for bit, split into halves as NumPy does."""
    if len(values) <= _CACHED:
        return float(np.square(values, dtype=np.float64).sum())
    half = len(values) // 2
    half -= half % 8
    return _square_sum(values[:half]) + _square_sum(values[half:])


def survival_dtype(iterations: int) -> np.dtype[Any]:
    """Return the narrowest unsigned type that holds 0..N and one more value, the fill value."""
    return np.min_scalar_type(iterations + 1)


def array_formats(grid: Grid, iterations: int, columns: Sequence[str]) -> dict[str, ShardFormat]:
    """Return the shard format of each array. The fill values cannot pass for data: NaN and an impossible count."""
    chunks, survival = grid.shard // grid.chunk, survival_dtype(iterations)
    floats = ShardFormat(np.dtype("<f4"), np.float32(np.nan), grid.chunk, chunks)
    return {
        "theta": floats,
        "grad": floats,
        "survival": ShardFormat(survival.newbyteorder("<"), np.iinfo(survival).max, grid.chunk, chunks),
        "alive": ShardFormat(np.dtype("u1"), 0, grid.chunk // 8, chunks),
        **dict.fromkeys(columns, floats),
    }


def shard_path(array: str, shard: int, row: int | None = None) -> str:
    """Return the path of a shard in the store, by zarr's default chunk keys."""
    return f"{array}/c/{shard}" if row is None else f"{array}/c/{row}/{shard}"
