"""Damage of any kind, at any storage of any file: one line that names the file, and never another number."""

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from autosparse.errors import StoreError
from autosparse.store import TripleStore, TripleWriter
from autosparse.store.schema import LEDGER, MARKER, metadata_of
from autosparse.store.verify import problems
from tests.store.drawn import Drawn, bits, draw, write

METADATA = metadata_of(())
RUN = draw(20_011, iterations=3)  # a chunk a shard, the last one cut short
WIDE = draw(1_100_000, iterations=2)  # two chunks a shard, of which the last shard has one
CHUNK, SHARD = 1 << 18, 1 << 19
SHARDS = ["theta/c/0", "grad/c/2", "survival/c/0", "alive/c/1/2"]  # of two chunks and of one


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    path = tmp_path_factory.mktemp("whole")
    write(path, RUN, 4096)
    return path


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "s"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be left as it was."""
    path = tmp_path_factory.mktemp("wide")
    write(path, WIDE, SHARD)
    return path


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "first byte": lambda content: flip(content, 3),
    "middle": lambda content: flip(content, len(content) * 4),
    "last byte": lambda content: flip(content, len(content) * 8 - 1),
    "cut by two bytes": lambda content: content[:-2],  # one may be the end of the last line
    "cut in half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "ones": lambda content: b"\xff" * len(content),
    "longer by a byte": lambda content: content + b"\0",
    "gone": lambda content: None,
}


def apply(path: Path, damage: str) -> None:
    changed = DAMAGE[damage](path.read_bytes())
    path.unlink() if changed is None else path.write_bytes(changed)


def read(store: TripleStore, name: str, span: slice = slice(None)) -> NDArray[np.generic]:
    """Of the array that a file is about."""
    array, *numbers = name.split("/")
    return store.alive(int(numbers[1]) + 1, span) if array == "alive" else getattr(store, array)(span)


def written(run: Drawn, name: str, span: slice = slice(None)) -> NDArray[np.generic]:
    array, *numbers = name.split("/")
    values = {"theta": run.theta, "grad": run.grad}.get(array)
    if values is not None:
        return values[span].numpy()
    return (
        run.survival[span].astype(np.uint8)
        if array == "survival"
        else run.masks[int(numbers[1]) + 1].kept[span].numpy()
    )


def attempt(do: Callable[[], Any]) -> Any:
    """What comes back, or the line that is raised instead."""
    try:
        return do()
    except StoreError as error:
        return str(error)


def equal(found: NDArray[np.generic], expected: NDArray[np.generic]) -> bool:
    """Bit for bit."""
    return found.dtype == expected.dtype and np.array_equal(bits(found), bits(expected))


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["theta/c/4", "grad/c/0", "survival/c/4", "alive/c/2/4"])
def test_a_damaged_shard_is_named_by_reading_and_by_verify(store: Path, name: str, damage: str) -> None:
    apply(store / name, damage)
    opened = attempt(lambda: TripleStore.open(store))
    if isinstance(opened, str):
        assert re.search(rf"s: {name} (is missing|has \d+ bytes, \d+ were committed); delete the store", opened)
        return
    (line,) = problems(opened)
    where = "chunk 0" if damage != "last byte" else "the index"
    where = "chunk 0, the index" if damage in ("zeros", "ones") else where
    assert f"{name} is damaged (checksum), {where}; delete the store and run the IRP again" in line
    found = attempt(lambda: read(opened, name))
    assert found == line if isinstance(found, str) else equal(found, written(RUN, name))  # no value was hit


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [*METADATA, LEDGER])
def test_damaged_metadata_are_refused_by_readers_and_writers(store: Path, name: str, damage: str) -> None:
    (store / MARKER).unlink()
    before = TripleStore.open(store, unfinished=True)
    apply(store / name, damage)
    with pytest.raises(StoreError, match=rf"{name}( is damaged| is missing| has \d+ bytes)"):
        TripleStore.open(store, unfinished=True)
    with pytest.raises(StoreError, match=rf"{name} is (damaged|missing)|not empty and no triple store"):
        TripleWriter.open(store, RUN.layout, 3, {"seed": 0})
    if name != LEDGER:
        assert any(name in line for line in problems(before))


@pytest.mark.filterwarnings("ignore")  # of zarr: what else lies there, and that others may not know this
def test_metadata_that_others_have_consolidated_are_whole(store: Path) -> None:
    zarr.consolidate_metadata(store)
    opened = TripleStore.open(store)
    assert problems(opened) == []
    assert equal(opened.theta(), RUN.theta.numpy())
    (store / MARKER).unlink()
    writer = TripleWriter.open(store, RUN.layout, 3, {"seed": 0})
    writer.finish()
    assert problems(TripleStore.open(store)) == []


def test_arrays_may_lie_behind_links(store: Path, tmp_path: Path) -> None:
    for name in ("theta", "alive"):
        shutil.move(store / name, tmp_path / "other" / name)
        (store / name).symlink_to(tmp_path / "other" / name)
    (store / "alive" / "c" / "circle").symlink_to(store)
    opened = TripleStore.open(store)
    assert problems(opened) == []
    assert equal(opened.theta(), RUN.theta.numpy())
    (tmp_path / "other" / "theta" / "c" / "1").unlink()
    with pytest.raises(StoreError, match="theta/c/1 is missing"):
        TripleStore.open(store)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_marker_is_refused(store: Path, damage: str) -> None:
    apply(store / MARKER, damage)
    with pytest.raises(StoreError, match=r"complete is damaged or of another ledger|not finished"):
        TripleStore.open(store)


@pytest.mark.parametrize("name", [*METADATA, LEDGER, MARKER])
def test_no_bit_of_the_metadata_counts_for_nothing(store: Path, name: str) -> None:
    content = (store / name).read_bytes()
    for bit in range(random.Random(name).randrange(61), len(content) * 8, 61):
        (store / name).write_bytes(flip(content, bit))
        with pytest.raises(StoreError):
            TripleStore.open(store)


@pytest.mark.long
@pytest.mark.parametrize("name", [*METADATA, LEDGER, MARKER])
def test_no_bit_at_all_counts_for_nothing(store: Path, name: str) -> None:
    content = (store / name).read_bytes()
    for bit in range(len(content) * 8):
        (store / name).write_bytes(flip(content, bit))
        with pytest.raises(StoreError):
            TripleStore.open(store)


def chunk_ends(name: str, size: int) -> list[int]:
    """Where the chunks of a shard end: their crc32c before, the index of two chunks after."""
    index = size - (2 * 16 + 4)
    width = {"theta": 4 * CHUNK, "grad": 4 * CHUNK, "survival": CHUNK, "alive": CHUNK // 8}[name.split("/")[0]]
    return [index] if name.endswith("2") else [width + 4, index]


def positions(name: str, size: int) -> list[int]:
    """The first bytes, those around the end of each chunk and its checksum, all of the index, and some between."""
    near = [end + step for end in chunk_ends(name, size) for step in (-9, -5, -4, -3, -2, -1, 0, 1)]
    some = random.Random(name).sample(range(size), 3)
    return sorted({0, 1, 4, 5, 12, *near, *range(size - 36, size, 5), size - 4, size - 1, *some})


@pytest.mark.parametrize("name", SHARDS)
def test_a_flipped_bit_anywhere_in_a_shard_of_many_chunks(wide: Path, name: str) -> None:
    check_flips(wide, name, positions(name, (wide / name).stat().st_size))


@pytest.mark.long
@pytest.mark.parametrize("name", SHARDS)
def test_a_thousand_flipped_bits(wide: Path, name: str) -> None:
    size = (wide / name).stat().st_size
    check_flips(wide, name, [*range(40), *range(size - 80, size), *random.Random(1).sample(range(size), 900)])


def check_flips(wide: Path, name: str, places: list[int]) -> None:
    content, shard = (wide / name).read_bytes(), int(name.rpartition("/")[2])
    first, last = shard * SHARD, min((shard + 1) * SHARD, len(WIDE))
    spans = [slice(first, last), slice(first, first + 9), slice(last - 9, last), slice(last - 8 * 99, len(WIDE))]
    spans = [slice(span.start // 8 * 8, span.stop) for span in spans]
    expected = [written(WIDE, name, span) for span in spans]
    try:
        for storage in places:
            (wide / name).write_bytes(flip(content, storage * 8 + storage % 8))
            opened = TripleStore.open(wide)
            line = attempt(lambda: opened.check(name))  # noqa: B023
            assert isinstance(line, str)
            assert re.search(rf"{name} is damaged \(checksum\), (chunk \d|the index);", line)
            for span, values in zip(spans, expected, strict=True):
                found = attempt(lambda: read(opened, name, span))  # noqa: B023
                assert found == line if isinstance(found, str) else equal(found, values)
    finally:
        (wide / name).write_bytes(content)


@pytest.mark.parametrize("chunk", [0, 1])
def test_the_damaged_chunk_is_named_and_the_others_can_be_read(wide: Path, chunk: int) -> None:
    path = wide / "grad/c/0"
    content = path.read_bytes()
    try:
        path.write_bytes(flip(content, (chunk * (4 * CHUNK + 4) + 1000) * 8))
        opened = TripleStore.open(wide)
        with pytest.raises(StoreError, match=rf"grad/c/0 is damaged \(checksum\), chunk {chunk};"):
            opened.grad()
        assert [line.partition(": ")[2].partition(";")[0] for line in problems(opened)] == [
            f"grad/c/0 is damaged (checksum), chunk {chunk}"
        ]
        other = slice((1 - chunk) * CHUNK, (2 - chunk) * CHUNK)
        assert np.array_equal(opened.grad(other), WIDE.grad[other])
    finally:
        path.write_bytes(content)


def test_swapped_shards_and_a_swapped_ledger_are_found(store: Path, tmp_path: Path) -> None:
    one, other = store / "theta" / "c" / "1", store / "theta" / "c" / "2"
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)
    assert [line.split(": ")[1].split(" ")[0] for line in problems(TripleStore.open(store))] == [
        "theta/c/1",
        "theta/c/2",
    ]
    write(tmp_path / "cut", RUN, 4096, until=4)
    shutil.copyfile(tmp_path / "cut" / LEDGER, store / LEDGER)
    with pytest.raises(StoreError, match="of another ledger"):
        TripleStore.open(store)
    (store / MARKER).unlink()
    with pytest.raises(StoreError, match="not finished"):
        TripleStore.open(store)
