"""A shard's file: Zarr's sharding codec without compression, written from the caller's memory and read into it.

Chunk after chunk, each followed by the crc32c of its bytes; then an index with the place and size of every chunk, and
its crc32c. A chunk is always whole: the last one of an array is filled up. Chunks behind the last value are not there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from autosparse.store.storage import Storage

_SUM = 4  # bytes of a crc32c
_NOWHERE = (1 << 64) - 1  # what the index says of a chunk that is not there


@dataclass(frozen=True)
class Form:
    """What the shards of an array have in common.

    Attributes:
        dtype: of the values.
        fill: what a chunk is filled up with.
        chunk: values in a chunk.
        chunks: chunks in a shard.
    """

    dtype: np.dtype[Any]
    fill: Any
    chunk: int
    chunks: int

    @property
    def width(self) -> int:
        """Bytes of a chunk, without its checksum."""
        return self.chunk * self.dtype.itemsize

    def size(self, count: int) -> int:
        """Bytes of the file of a shard of so many values."""
        return -(-count // self.chunk) * (self.width + _SUM) + 16 * self.chunks + _SUM

    def padding(self, count: int) -> memoryview:
        """What follows so many values in their last chunk."""
        return _bytes(np.full(-count % self.chunk, self.fill, self.dtype))

    def index(self, count: int) -> bytes:
        """The end of a shard of so many values."""
        there = -(-count // self.chunk)
        table = np.full((self.chunks, 2), _NOWHERE, "<u8")
        table[:there, 0] = np.arange(there) * (self.width + _SUM)
        table[:there, 1] = self.width + _SUM
        content = table.tobytes()
        return content + _sum(crc32c(content))


def encode(values: NDArray[Any], form: Form) -> tuple[list[memoryview], list[int]]:
    """The parts of a shard's file in order, without a copy, and the checksums of its chunks.

    Args:
        values: (n,), contiguous; at most a shard's.
        form: of the array.
    """
    parts, sums, content = list[memoryview](), list[int](), _bytes(values)
    padding = form.padding(len(values))
    for start in range(0, len(content), form.width):
        chunk = content[start : start + form.width]
        checksum = crc32c(chunk)
        parts.append(chunk)
        if len(chunk) < form.width:
            checksum = crc32c(padding, checksum)
            parts.append(padding)
        parts.append(memoryview(_sum(checksum)))
        sums.append(checksum)
    return [*parts, memoryview(form.index(len(values)))], sums


def read(storage: Storage, name: str, form: Form, first: int, out: NDArray[Any], sums: Sequence[int]) -> None:
    """Read whole chunks of a shard, each checksummed as it comes.

    Args:
        storage, name: the shard's file.
        form: of the array.
        first: the number of the first chunk.
        out: (n,), contiguous; where the values of the chunks go. The last one may be cut short by the array's end.
        sums: the checksums of these chunks.

    Raises:
        ValueError: a chunk is not what its checksum says, or the file ends before.
    """
    content, padding = _bytes(out), bytearray(form.padding(len(out)).nbytes)
    rest, ignored = memoryview(padding), memoryview(bytearray(_SUM))
    start, stop = (number * (form.width + _SUM) for number in (first, first + len(sums)))
    with storage.stream(name, start, stop) as fill:
        for number, expected in enumerate(sums):
            chunk = content[number * form.width : (number + 1) * form.width]
            short = len(chunk) < form.width
            fill([chunk, rest, ignored] if short else [chunk, ignored])
            found = crc32c(chunk)
            if (crc32c(rest, found) if short else found) != expected:
                raise ValueError("checksum of a chunk")


def damaged(storage: Storage, name: str, form: Form, count: int, sums: Sequence[int]) -> Iterator[str]:
    """What of a shard's file is not what was committed, every byte looked at: `chunk 0`, ..., `the index`."""
    chunk, checksum = memoryview(bytearray(form.width)), memoryview(bytearray(_SUM))
    index = form.index(count)
    end = memoryview(bytearray(len(index)))
    with storage.stream(name, 0, form.size(count)) as fill:
        for number, expected in enumerate(sums):
            fill([chunk, checksum])
            if crc32c(chunk) != expected or checksum != _sum(expected):
                yield f"chunk {number}"
        fill([end])
    if end != index:
        yield "the index"


def _bytes(values: NDArray[Any]) -> memoryview:
    flat: Any = values
    return memoryview(flat).cast("B") if len(values) else memoryview(b"")


def _sum(checksum: int) -> bytes:
    return checksum.to_bytes(_SUM, "little")
