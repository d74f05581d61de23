"""What the store promises: whole shards, one owner, durable, resumable, and no damage read as data."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from autosparse.errors import StoreError
from autosparse.pruning import Geometric, Layer, Layout, Mask, keep_top
from autosparse.pruning.schedule import keep_count
from autosparse.store import TripleStore, TripleWriter
from autosparse.store.schema import Grid, Ledger, survival_dtype
from autosparse.store.verify import problems
from tests.conftest import tree

SIZE, SHARD, N = 20_011, 4096, 3
LAYOUT = Layout((Layer("a.weight", (111, 100), 0, 100, 111), Layer("b.weight", (8911,), 11_100, 1, 1)))
THETA = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
GRAD = torch.randn(SIZE, generator=torch.Generator().manual_seed(1))
THETA[:SHARD], GRAD[SHARD : 2 * SHARD] = 0.0, 0.0  # blocks of zeros are data like any other


def masks() -> list[Mask]:
    schedule, found = Geometric(N, 0.01), [Mask.full(LAYOUT)]
    for i in range(1, N + 1):
        found.append(keep_top((THETA * GRAD + 0.1 * THETA).abs(), keep_count(schedule.density(i), SIZE), found[-1]))
    return found


MASKS = masks()
SURVIVAL = sum(mask.kept.int() for mask in MASKS[1:]).numpy()


def write(path: Path, world_size: int = 1, until: int = 99) -> None:
    """Write a store as `world_size` processes would, going on where it stands; stop after `until` commits."""
    if not path.exists():
        TripleWriter.create(path, LAYOUT, N, {"seed": 0}, shard=SHARD)
    for _ in range(until):
        ranks = [TripleWriter.resume(path, rank, world_size) for rank in range(world_size)]
        done = ranks[0].committed
        if done < 0:
            parts, density = [rank.write_features(THETA, GRAD) for rank in ranks], 1.0
        elif done < N:
            parts, density = [rank.write_alive(done + 1, MASKS[done + 1]) for rank in ranks], MASKS[done + 1].density
        else:
            ranks[0].commit({k: v for rank in ranks for k, v in rank.write_survival().items()})
            ranks[0].finish()
            return
        ranks[0].commit({k: v for part in parts for k, v in part.items()}, density)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write(tmp_path / "triples.zarr")
    return tmp_path / "triples.zarr"


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_round_trip_and_the_same_bytes_from_any_number_of_writers(store: Path, world_size: int, tmp_path: Path) -> None:
    write(tmp_path / "other", world_size)
    assert tree(tmp_path / "other") == tree(store)
    read = TripleStore.open(tmp_path / "other")
    assert read.complete
    assert (read.layout, len(read), read.iterations, read.run) == (LAYOUT, SIZE, N, {"seed": 0})
    assert np.array_equal(read.theta(), THETA.numpy())
    assert np.array_equal(read.grad(), GRAD.numpy())
    assert np.array_equal(read.survival(), SURVIVAL)
    assert read.survival().dtype == np.uint8
    assert np.array_equal(read.theta(slice(5000, 9001)), THETA[5000:9001].numpy())
    assert read.densities == [mask.density for mask in MASKS]
    for i, mask in enumerate(MASKS):
        assert torch.equal(read.mask(i).kept, mask.kept)
        assert np.array_equal(read.alive(i, slice(4096, 9999)), mask.kept[4096:9999].numpy())
    assert problems(read) == []


@pytest.mark.parametrize("commits", range(6))
def test_an_interrupted_store_is_refused_and_ends_with_the_same_bytes(
    store: Path, commits: int, tmp_path: Path
) -> None:
    path = tmp_path / "cut"
    write(path, until=commits)
    if commits < 5:
        with pytest.raises(StoreError, match=r"is not finished .* run the same IRP again"):
            TripleStore.open(path)
        unfinished = TripleStore.open(path, unfinished=True)
        assert not unfinished.complete
        assert len(unfinished.densities) == min(commits, N + 1)
        (path / "theta" / "c").mkdir(exist_ok=True)
        (path / "theta" / "c" / "0.1234.partial").write_bytes(b"of a killed writer")
        (path / ".ledger.json.tmp").write_bytes(b"of a killed commit")
        write(path)
    assert tree(path) == tree(store)


def test_uncommitted_shards_are_written_again(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    write(path, until=2)
    writer = TripleWriter.resume(path)
    writer.write_alive(2, Mask.full(LAYOUT))  # killed before the commit, with other content even
    with pytest.raises(StoreError, match="mask 2 is not there"):
        TripleStore.open(path, unfinished=True).mask(2)
    write(path)
    assert tree(path) == tree(store)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flip_last(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x80
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def read_all(path: Path) -> None:
    store = TripleStore.open(path)
    for read in (store.theta, store.grad, store.survival, lambda: store.alive(2)):
        read()


@pytest.mark.parametrize("damage", [flip, flip_last, truncate, zero, Path.unlink])
@pytest.mark.parametrize("name", ["theta/c/1", "grad/c/4", "survival/c/0", "alive/c/1/2"])
def test_damaged_shards_are_never_read_as_numbers(store: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(store / name)
    with pytest.raises(StoreError, match=name):
        read_all(store)
    try:
        found = problems(TripleStore.open(store))
    except StoreError:
        return
    assert any(name in line for line in found)


@pytest.mark.parametrize("damage", [flip, truncate, zero, Path.unlink])
@pytest.mark.parametrize("name", ["zarr.json", "theta/zarr.json", "alive/zarr.json", "ledger.json"])
def test_damaged_metadata_are_refused(store: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(store / name)
    with pytest.raises(StoreError, match=str(store)):
        TripleStore.open(store)


def test_swapped_shards_and_a_swapped_ledger_are_found(store: Path, tmp_path: Path) -> None:
    one, other = store / "theta" / "c" / "1", store / "theta" / "c" / "2"
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)
    assert [line.split(": ")[1].split(" ")[0] for line in problems(TripleStore.open(store))] == [
        "theta/c/1",
        "theta/c/2",
    ]
    write(tmp_path / "cut", until=4)
    shutil.copyfile(tmp_path / "cut" / "ledger.json", store / "ledger.json")
    with pytest.raises(StoreError, match="of another ledger"):
        TripleStore.open(store)
    (store / "complete").unlink()
    with pytest.raises(StoreError, match="not finished"):
        TripleStore.open(store)


def test_a_newer_schema_is_refused(store: Path) -> None:
    path = store / "zarr.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(StoreError, match="schema 2, this version reads 1"):
        TripleStore.open(store)


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no triple store at"):
        TripleStore.open(tmp_path / "none")
    with pytest.raises(StoreError, match="is no triple store"):
        TripleStore.open(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="not empty and no triple store"):
        TripleWriter.create(tmp_path, LAYOUT, N, {})
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_writes_are_whole_shards_of_their_owner_once(tmp_path: Path) -> None:
    path = tmp_path / "s"
    TripleWriter.create(path, LAYOUT, N, {}, shard=SHARD)
    first, second = (TripleWriter.resume(path, rank, 2) for rank in (0, 1))
    values = THETA.numpy()
    for span in (slice(0, 100), slice(8, SHARD), slice(0, 2 * SHARD)):
        with pytest.raises(StoreError, match="whole shard"):
            first.write("theta", span, values[span])
    with pytest.raises(StoreError, match="shard 1 belongs to process 1, not 0"):
        first.write("theta", slice(SHARD, 2 * SHARD), values[SHARD : 2 * SHARD])
    with pytest.raises(StoreError, match="theta holds float32, got float64"):
        first.write("theta", slice(0, SHARD), values[:SHARD].astype(float))
    with pytest.raises(StoreError, match="mask 1 does not follow mask -1"):
        first.write_alive(1, MASKS[1])
    files = first.write_features(THETA, GRAD) | second.write_features(THETA, GRAD)
    first.commit(files, 1.0)
    with pytest.raises(StoreError, match="committed before"):
        first.write("theta", slice(0, SHARD), values[:SHARD])
    with pytest.raises(StoreError, match=r"alive/c/0/0 was never committed|survival/c/0 was never committed"):
        first.finish()
    with pytest.raises(StoreError, match="holds a triple store already"):
        TripleWriter.create(path, LAYOUT, N, {})


def test_a_complete_store_cannot_be_written_to(store: Path) -> None:
    with pytest.raises(StoreError, match="is complete"):
        TripleWriter.resume(store)


def test_grids() -> None:
    assert Grid.of(266_200).shards == 5
    large = Grid.of(143_652_544)
    assert (large.shard, large.chunk, large.shards) == (1 << 24, 1 << 20, 9)
    for size in (1, 4096, 50_200, 11_164_352, 10**9):
        grid = Grid.of(size)
        for world in (1, 2, 3, 8):
            spans = sorted((s for r in range(world) for s in grid.owned(r, world)), key=lambda s: s.start)
            assert spans[0].start == 0
            assert spans[-1].stop == size
            assert all(a.stop == b.start for a, b in itertools.pairwise(spans))
    with pytest.raises(StoreError, match="multiple of 8"):
        Grid.of(100, 12)


def test_survival_leaves_room_for_an_impossible_value() -> None:
    assert [survival_dtype(n) for n in (1, 254, 255, 65534, 65535)] == [
        np.uint8,
        np.uint8,
        np.uint16,
        np.uint16,
        np.uint32,
    ]


def test_the_ledger_has_a_checksum_of_its_own(tmp_path: Path) -> None:
    checksum = Ledger({"a": {"size": 1, "crc32": 2}}, [1.0]).write(tmp_path)
    assert Ledger.read(tmp_path) == (Ledger({"a": {"size": 1, "crc32": 2}}, [1.0]), checksum)
    path = tmp_path / "ledger.json"
    path.write_text(path.read_text().replace("1.0", "0.5"))
    with pytest.raises(StoreError, match="checksum mismatch"):
        Ledger.read(tmp_path)
