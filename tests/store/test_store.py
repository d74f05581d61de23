"""What the store promises: whole shards, one owner, resumable, the same bytes from any number of writers."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from autosparse.errors import StoreError
from autosparse.pruning import Geometric, Layer, Layout, Mask, keep_top
from autosparse.pruning.schedule import keep_count
from autosparse.store import TripleStore, TripleWriter
from autosparse.store.schema import LEDGER, METADATA, Grid, Ledger, survival_dtype
from autosparse.store.storage import storage_of
from autosparse.store.verify import problems
from tests.conftest import tree
from tests.store import drawn

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
SURVIVAL = torch.stack([mask.kept for mask in MASKS[1:]]).sum(0).numpy()


def write(path: Path, world_size: int = 1, until: int = 99) -> None:
    """Write a store as `world_size` processes would, going on where it stands; stop after `until` commits."""
    drawn.write(path, drawn.Drawn(THETA, GRAD, MASKS), SHARD, world_size, until)


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


@pytest.mark.parametrize("commits", range(7))
def test_an_interrupted_store_is_refused_and_ends_with_the_same_bytes(
    store: Path, commits: int, tmp_path: Path
) -> None:
    path = tmp_path / "cut"
    write(path, until=commits)
    if commits < 6:
        with pytest.raises(StoreError, match=r"is not finished .* run the same IRP again"):
            TripleStore.open(path)
        unfinished = TripleStore.open(path, unfinished=True)
        assert not unfinished.complete
        assert len(unfinished.densities) == min(commits, N + 1)
        (path / "theta" / "c").mkdir(exist_ok=True)
        (path / "theta" / "c" / ".0.1234.tmp").write_bytes(b"of a killed writer")
        (path / ".ledger.json.1234.tmp").write_bytes(b"of a killed commit")
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


def test_a_newer_schema_is_refused(store: Path) -> None:
    path = store / "zarr.json"
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 3'))
    with pytest.raises(StoreError, match="schema 3, this version reads 2; update autosparse"):
        TripleStore.open(store)


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no triple store at"):
        TripleStore.open(tmp_path / "none")
    with pytest.raises(StoreError, match="no triple store at"):
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
    for wrong in (values[:1], values[: SHARD - 1], values[:SHARD].reshape(2, -1), values[0]):
        with pytest.raises(StoreError, match=r"theta/c/0 holds 4096 values, got \("):
            first.write("theta", slice(0, SHARD), wrong)
    with pytest.raises(StoreError, match=r"holds 20011 parameters, got \(20012,\)"):
        first.write_features(THETA, torch.zeros(SIZE + 1))
    assert storage_of(path).sizes().keys() == {*METADATA, LEDGER}
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


def test_values_need_not_lie_side_by_side(tmp_path: Path) -> None:
    TripleWriter.create(tmp_path, LAYOUT, N, {}, shard=SHARD)
    writer = TripleWriter.resume(tmp_path)
    both = torch.stack([THETA, GRAD], dim=1)
    writer.commit(writer.write_features(both[:, 0], both[:, 1]), 1.0)
    assert np.array_equal(writer.store.theta(), THETA)
    assert np.array_equal(writer.store.grad(), GRAD)


def test_a_complete_store_cannot_be_written_to(store: Path) -> None:
    with pytest.raises(StoreError, match="is complete"):
        TripleWriter.resume(store)


def test_grids() -> None:
    assert Grid.of(266_200).shards == 5
    large = Grid.of(143_652_544)
    assert (large.shard, large.chunk, large.shards) == (1 << 24, 1 << 18, 9)
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
    storage = storage_of(tmp_path)
    checksum = Ledger({"a": {"size": 1, "crc32": 2}}, [1.0]).write(storage)
    assert Ledger.read(storage) == (Ledger({"a": {"size": 1, "crc32": 2}}, [1.0]), checksum)
    path = tmp_path / "ledger.json"
    path.write_text(path.read_text().replace("1.0", "0.5"))
    with pytest.raises(StoreError, match="checksum mismatch"):
        Ledger.read(storage)
