"""Damage of any kind, anywhere in any file: one line that names the file, and never a wrong value."""

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
from autosparse.store.schema import LEDGER, MARKER
from tests.store.helpers import Run, bits, flip, random_run, write

METADATA = ["zarr.json", *(f"{array}/zarr.json" for array in ("theta", "grad", "survival", "alive", "probe-theta"))]
RUN = random_run(20_011, columns=("probe-theta",))  # one chunk per shard, the last one cut short
WIDE = random_run(1_100_000, iterations=2)  # two chunks per shard, the last shard has one
CHUNK, SHARD = 1 << 18, 1 << 19


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that no test changes."""
    path = tmp_path_factory.mktemp("whole")
    write(path, RUN, 4096)
    return path


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "s"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that every test leaves unchanged."""
    path = tmp_path_factory.mktemp("wide")
    write(path, WIDE, SHARD)
    return path


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
    "lost": lambda content: None,
}


def apply(path: Path, damage: str) -> None:
    content = DAMAGE[damage](path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)


def read(store: TripleStore, name: str, span: slice = slice(None)) -> NDArray[np.generic]:
    """Read the array that a file belongs to."""
    array, *numbers = name.split("/")
    if array == "alive":
        return store.alive(int(numbers[1]) + 1, span)
    return store.probe(array, int(numbers[1])) if array == "probe-theta" else getattr(store, array)(span)


def written(run: Run, name: str, span: slice = slice(None)) -> NDArray[np.generic]:
    """Return what `read` must return."""
    array, *numbers = name.split("/")
    if array == "survival":
        return run.survival[span].astype(np.uint8)
    if array == "alive":
        return run.masks[int(numbers[1]) + 1].kept[span].numpy()
    if array == "probe-theta":
        return run.probe(int(numbers[1]))[array].numpy()
    return {"theta": run.theta, "grad": run.grad}[array][span].numpy()


def attempt(action: Callable[[], Any]) -> Any:
    """Return the result of an action, or the text of its `StoreError`."""
    try:
        return action()
    except StoreError as error:
        return str(error)


def equal(values: NDArray[np.generic], expected: NDArray[np.generic]) -> bool:
    """Return True if two arrays are equal bit for bit."""
    return values.dtype == expected.dtype and np.array_equal(bits(values), bits(expected))


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["theta/c/4", "grad/c/0", "survival/c/4", "alive/c/2/4", "probe-theta/c/1/0"])
def test_opening_reading_or_verify_names_a_damaged_shard(store: Path, name: str, damage: str) -> None:
    apply(store / name, damage)
    opened = attempt(lambda: TripleStore.open(store))
    if isinstance(opened, str):
        assert re.search(rf"s: {name} (is missing|has \d+ bytes, \d+ were committed); delete the store", opened)
        return
    (line,) = opened.problems()
    place = {"last byte": "the index", "zeros": "chunk 0, the index", "ones": "chunk 0, the index"}.get(
        damage, "chunk 0"
    )
    assert f"{name} is damaged (checksum), {place}; delete the store and run the IRP again" in line
    values = attempt(lambda: read(opened, name))
    assert values == line if isinstance(values, str) else equal(values, written(RUN, name))  # no value was hit


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [*METADATA, LEDGER])
def test_readers_and_writers_refuse_damaged_metadata(store: Path, name: str, damage: str) -> None:
    (store / MARKER).unlink()
    apply(store / name, damage)
    with pytest.raises(StoreError, match=rf"{name}( is damaged| is missing)"):
        TripleStore.open(store, unfinished=True)
    with pytest.raises(StoreError, match=rf"{name} is (damaged|missing)|not empty and not a triple store"):
        TripleWriter.open(store, RUN.layout, 3, {"seed": 0}, columns=RUN.columns)


@pytest.mark.filterwarnings("ignore")  # of zarr: the store holds other files, and others may not know this
def test_consolidated_metadata_are_whole(store: Path) -> None:
    zarr.consolidate_metadata(store)
    opened = TripleStore.open(store)
    assert opened.problems() == []
    assert equal(opened.theta(), RUN.theta.numpy())
    (store / MARKER).unlink()
    TripleWriter.open(store, RUN.layout, 3, {"seed": 0}, columns=RUN.columns).finish()
    assert TripleStore.open(store).problems() == []


def test_arrays_may_be_links(store: Path, tmp_path: Path) -> None:
    for name in ("theta", "alive"):
        shutil.move(store / name, tmp_path / "other" / name)
        (store / name).symlink_to(tmp_path / "other" / name)
    (store / "alive" / "c" / "circle").symlink_to(store)
    opened = TripleStore.open(store)
    assert opened.problems() == []
    assert equal(opened.theta(), RUN.theta.numpy())
    (tmp_path / "other" / "theta" / "c" / "1").unlink()
    with pytest.raises(StoreError, match="theta/c/1 is missing"):
        TripleStore.open(store)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_marker_raises(store: Path, damage: str) -> None:
    apply(store / MARKER, damage)
    with pytest.raises(StoreError, match=r"complete is damaged or belongs to another ledger|not finished"):
        TripleStore.open(store)


@pytest.mark.parametrize("stride", [61, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", [*METADATA, LEDGER, MARKER])
def test_every_bit_of_the_metadata_counts(store: Path, name: str, stride: int) -> None:
    content = (store / name).read_bytes()
    for bit in range(random.Random(name).randrange(stride), len(content) * 8, stride):
        (store / name).write_bytes(flip(content, bit))
        with pytest.raises(StoreError):
            TripleStore.open(store)


@pytest.mark.parametrize("count", [3, pytest.param(900, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["theta/c/0", "grad/c/2", "survival/c/0", "alive/c/1/2"])  # of two chunks and of one
def test_a_flipped_bit_anywhere_in_a_shard_is_found(wide: Path, name: str, count: int) -> None:
    content, shard = (wide / name).read_bytes(), int(name.rpartition("/")[2])
    index = len(content) - (2 * 16 + 4)
    ends = [index] if shard == 2 else [index // 2, index]  # of the chunks
    near = [end + step for end in ends for step in (-9, -5, -4, -3, -2, -1, 0, 1)]
    places = {0, 1, 4, 5, 12, *near, *range(index, len(content), 5), len(content) - 1}
    places |= {*random.Random(count).sample(range(len(content)), count)}
    first, last = shard * SHARD, min((shard + 1) * SHARD, len(WIDE))
    spans = [(first, last), (first, first + 9), (last - 9, last), (last - 8 * 99, len(WIDE))]
    aligned = [slice(start // 8 * 8, stop) for start, stop in spans]
    expected = [written(WIDE, name, span) for span in aligned]
    try:
        for place in sorted(places):
            (wide / name).write_bytes(flip(content, place * 8 + place % 8))
            opened = TripleStore.open(wide)
            line = attempt(lambda: opened.check(name))  # noqa: B023
            assert re.search(rf"{name} is damaged \(checksum\), (chunk \d|the index);", str(line))
            for span, values in zip(aligned, expected, strict=True):
                result = attempt(lambda: read(opened, name, span))  # noqa: B023
                assert result == line if isinstance(result, str) else equal(result, values)
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
        other = slice((1 - chunk) * CHUNK, (2 - chunk) * CHUNK)
        assert np.array_equal(opened.grad(other), WIDE.grad[other])
    finally:
        path.write_bytes(content)


def test_swapped_shards_and_a_swapped_ledger_are_found(store: Path, tmp_path: Path) -> None:
    one, other = store / "theta" / "c" / "1", store / "theta" / "c" / "2"
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)
    names = [line.split(": ")[1].split(" ")[0] for line in TripleStore.open(store).problems()]
    assert names == ["theta/c/1", "theta/c/2"]
    write(tmp_path / "cut", RUN, 4096, until=4)
    shutil.copyfile(tmp_path / "cut" / LEDGER, store / LEDGER)
    with pytest.raises(StoreError, match="belongs to another ledger"):
        TripleStore.open(store)
