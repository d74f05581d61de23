"""A damaged file is named with its chunk, and the rest can be read; `test_machine` damages files anywhere."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from autosparse.errors import StoreError
from autosparse.store import TripleStore, TripleWriter
from autosparse.store.schema import LEDGER, MARKER
from tests.store.helpers import flip, random_run, write

METADATA = ["zarr.json", *(f"{array}/zarr.json" for array in ("theta", "grad", "survival", "alive", "probe-theta"))]
RUN = random_run(20_011, columns=("probe-theta",))  # one chunk per shard, the last one cut short
CHUNK = 1 << 18


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that no test changes."""
    path = tmp_path_factory.mktemp("whole")
    write(path, RUN, 4096)
    return path


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "s"))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "first byte": lambda content: flip(content, 3),
    "last byte": lambda content: flip(content, len(content) * 8 - 1),
    "cut in half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "longer by a byte": lambda content: content + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["theta/c/4", "survival/c/4", "alive/c/2/4", "probe-theta/c/1/0"])
def test_opening_or_verify_names_a_damaged_shard(store: Path, name: str, damage: str) -> None:
    (store / name).write_bytes(DAMAGE[damage]((store / name).read_bytes()))
    if not damage.endswith("t byte"):
        with pytest.raises(StoreError, match=rf"s: {name} has \d+ bytes, \d+ were committed; delete the store"):
            TripleStore.open(store)
        return
    (line,) = TripleStore.open(store).problems()
    place = "the index" if damage == "last byte" else "chunk 0"
    assert f"{name} is damaged (checksum), {place}; delete the store and run the IRP again" in line


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [*METADATA, LEDGER])
def test_readers_and_writers_refuse_damaged_metadata(store: Path, name: str, damage: str) -> None:
    (store / MARKER).unlink()
    (store / name).write_bytes(DAMAGE[damage]((store / name).read_bytes()))
    with pytest.raises(StoreError, match=rf"{name} is damaged"):
        TripleStore.open(store, unfinished=True)
    with pytest.raises(StoreError, match=rf"{name} is damaged"):
        TripleWriter.open(store, RUN.layout, 3, {"seed": 0}, columns=RUN.columns)


@pytest.mark.filterwarnings("ignore")  # of zarr: the store holds other files, and others may not know this
def test_consolidated_metadata_are_whole(store: Path) -> None:
    zarr.consolidate_metadata(store)
    assert TripleStore.open(store).problems() == []
    (store / MARKER).unlink()
    TripleWriter.open(store, RUN.layout, 3, {"seed": 0}, columns=RUN.columns).finish()
    assert TripleStore.open(store).problems() == []


def test_arrays_may_be_links(store: Path, tmp_path: Path) -> None:
    shutil.move(store / "theta", tmp_path / "other")
    (store / "theta").symlink_to(tmp_path / "other")
    assert TripleStore.open(store).problems() == []
    (tmp_path / "other" / "c" / "1").unlink()
    with pytest.raises(StoreError, match="theta/c/1 is missing"):
        TripleStore.open(store)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_marker_raises(store: Path, damage: str) -> None:
    (store / MARKER).write_bytes(DAMAGE[damage]((store / MARKER).read_bytes()))
    with pytest.raises(StoreError, match="complete is damaged or belongs to another ledger"):
        TripleStore.open(store)


@pytest.mark.parametrize("chunk", [0, 1])
def test_the_damaged_chunk_is_named_and_the_others_can_be_read(tmp_path: Path, chunk: int) -> None:
    run = random_run(600_000, iterations=1)  # two chunks per shard, the last shard has one
    write(tmp_path, run, 2 * CHUNK)
    path = tmp_path / "grad/c/0"
    path.write_bytes(flip(path.read_bytes(), (chunk * (4 * CHUNK + 4) + 1000) * 8))
    opened = TripleStore.open(tmp_path)
    with pytest.raises(StoreError, match=rf"grad/c/0 is damaged \(checksum\), chunk {chunk};"):
        opened.grad()
    other = slice((1 - chunk) * CHUNK, (2 - chunk) * CHUNK)
    assert np.array_equal(opened.grad(other), run.grad[other])


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
