"""The file of a shard: Zarr's sharding codec without compression, written from and read into the caller's memory.

The file holds its chunks one after the other, each followed by the crc32c of its bytes; then an index with the offset
and size of every chunk; then the crc32c of the index. All chunks have the same length: the last one of an array is
padded. Chunks behind the last value are missing from the file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

_CHECKSUM = 4  # bytes of a crc32c
_MISSING = (1 << 64) - 1  # offset and size of a missing chunk in the index


@dataclass(frozen=True)
class ShardFormat:
    """The format that all shards of an array share."""

    dtype: np.dtype[Any]  # little-endian
    fill: Any  # value that pads a chunk
    chunk: int  # number of values per chunk
    chunks: int  # number of chunks per shard

    @property
    def length(self) -> int:
        """Number of values per shard."""
        return self.chunk * self.chunks

    @property
    def width(self) -> int:
        """Bytes of a chunk without its checksum."""
        return self.chunk * self.dtype.itemsize

    @property
    def stride(self) -> int:
        """Bytes of a chunk with its checksum."""
        return self.width + _CHECKSUM

    def size(self, count: int) -> int:
        """Return the bytes of the file of a shard with `count` values."""
        return -(-count // self.chunk) * self.stride + 16 * self.chunks + _CHECKSUM

    def encode(self, values: NDArray[Any]) -> tuple[list[memoryview], list[int]]:
        """Return the file of a shard in pieces, and the crc32c of each chunk; the contiguous values are not copied."""
        parts, sums, content = list[memoryview](), list[int](), _bytes(values)
        padding = self._padding(len(values))
        for start in range(0, len(content), self.width):
            chunk = content[start : start + self.width]
            checksum = crc32c(chunk)
            parts.append(chunk)
            if len(chunk) < self.width:
                checksum = crc32c(padding, checksum)
                parts.append(padding)
            parts.append(memoryview(_encode(checksum)))
            sums.append(checksum)
        return [*parts, memoryview(self._index(len(values)))], sums

    def read(self, file: BufferedIOBase, out: NDArray[Any], sums: Sequence[int]) -> None:
        """Read whole chunks into contiguous `out`, from a file that is at the start of a chunk.

        Each chunk is compared with its crc32c while it is in the processor's cache; `ValueError` if it differs. The end
        of the array may cut the last chunk short.
        """
        content, padding = _bytes(out), bytearray(len(self._padding(len(out))))
        for number, expected in enumerate(sums):
            chunk = content[number * self.width : (number + 1) * self.width]
            checksum = crc32c(_fill(file, chunk))
            if len(chunk) < self.width:
                checksum = crc32c(_fill(file, padding), checksum)
            if checksum != expected:
                raise ValueError("checksum of a chunk")
            file.read(_CHECKSUM)

    def damage(self, file: BufferedIOBase, count: int, sums: Sequence[int]) -> Iterator[str]:
        """Yield the damaged parts of a shard of `count` values: `chunk 0`, ..., `the index`."""
        chunk = bytearray(self.width)
        for number, expected in enumerate(sums):
            checksum, stored = crc32c(_fill(file, chunk)), file.read(_CHECKSUM)
            if checksum != expected or stored != _encode(expected):
                yield f"chunk {number}"
        if file.read() != self._index(count):
            yield "the index"

    def _padding(self, count: int) -> memoryview:
        """Return the bytes that pad the last chunk of a shard of `count` values."""
        return _bytes(np.full(-count % self.chunk, self.fill, self.dtype))

    def _index(self, count: int) -> bytes:
        """Return the end of the file of a shard of `count` values."""
        written = -(-count // self.chunk)
        table = np.full((self.chunks, 2), _MISSING, "<u8")
        table[:written, 0] = np.arange(written) * self.stride
        table[:written, 1] = self.stride
        content = table.tobytes()
        return content + _encode(crc32c(content))


def _fill(file: BufferedIOBase, buffer: Any) -> Any:
    """Fill a buffer from a file and return it."""
    if file.readinto(buffer) < len(buffer):
        raise ValueError("the file ends early")
    return buffer


def _bytes(values: NDArray[Any]) -> memoryview:
    flat: Any = values
    return memoryview(flat).cast("B") if len(values) else memoryview(b"")


def _encode(checksum: int) -> bytes:
    return checksum.to_bytes(_CHECKSUM, "little")
