"""What the store promises: whole shards, one owner, resumable, the same bytes from any number of writers."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from autosparse.distributed import Group
from autosparse.errors import StoreError, UserError
from autosparse.pruning import Geometric, Layer, Layout, Mask, keep_top
from autosparse.pruning.schedule import keep_count
from autosparse.store import TripleStore, TripleWriter, reader, schema
from autosparse.store.schema import LEDGER, Grid, Ledger, metadata_of, survival_dtype
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

RUN = drawn.Drawn(THETA, GRAD, MASKS)


def write(path: Path, world_size: int = 1, until: int = 99) -> None:
    """Write a store as `world_size` processes would, going on where it stands; stop after `until` commits."""
    drawn.write(path, RUN, SHARD, world_size, until)


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

    def killed(group: Group) -> None:
        TripleWriter.open(path, LAYOUT, N, {"seed": 0}, group).commit_alive(2, Mask.full(LAYOUT))  # other content even

    with pytest.raises(drawn.StoppedError):
        drawn.together(1, killed, stop=3)  # when all is written and nothing committed
    assert (path / "alive" / "c" / "1" / "0").exists()
    with pytest.raises(StoreError, match="mask 2 is not there"):
        TripleStore.open(path, unfinished=True).mask(2)
    write(path)
    assert tree(path) == tree(store)


@pytest.mark.parametrize(("version", "advice"), [(4, "run the IRP again"), (6, "update autosparse")])
def test_another_schema_is_refused(store: Path, version: int, advice: str) -> None:
    path = store / "zarr.json"
    path.write_text(path.read_text().replace('"schema": 5', f'"schema": {version}'))
    with pytest.raises(StoreError, match=f"has schema {version}, this version reads 5; {advice}"):
        TripleStore.open(store)


def scanned(store: TripleStore) -> dict[str, float]:
    """Mean squares by reading everything, window after window."""
    totals = {"theta": 0.0, "grad": 0.0}
    for _, columns in store.scan(*totals):
        for name, values in columns.items():
            totals[name] += float(np.square(values, dtype=np.float64).sum())
    return {name: total / len(store) for name, total in totals.items()}


@pytest.mark.parametrize("window", [1 << 22, 1 << 11])  # a shard of one, and of two, the last one cut short
def test_the_ledger_has_the_mean_squares(window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (schema, reader):
        monkeypatch.setattr(module, "WINDOW", window)
    write(tmp_path, 2, until=1)
    store = TripleStore.open(tmp_path, unfinished=True)
    assert store.mean_squares == scanned(store)  # to the last bit
    assert store.mean_squares["grad"] == pytest.approx(GRAD.square().mean().item(), rel=1e-5)


def test_mean_squares_of_what_is_no_number(tmp_path: Path) -> None:
    writer = TripleWriter.open(tmp_path, LAYOUT, N, {})
    writer.commit_features(torch.where(THETA > 2, torch.nan, THETA), torch.full((SIZE,), torch.inf))
    assert np.isnan(writer.store.mean_squares["theta"])
    assert writer.store.mean_squares["grad"] == np.inf


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no triple store at"):
        TripleStore.open(tmp_path / "none")
    with pytest.raises(StoreError, match="no triple store at"):
        TripleStore.open(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="not empty and no triple store"):
        TripleWriter.open(tmp_path, LAYOUT, N, {})
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_writes_are_whole_shards_in_order(tmp_path: Path) -> None:
    writer = TripleWriter.open(tmp_path, LAYOUT, N, {}, shard=SHARD)
    with pytest.raises(StoreError, match=r"holds 20011 parameters, got \(20012,\)"):
        writer.commit_features(THETA, torch.zeros(SIZE + 1))
    with pytest.raises(StoreError, match="grad holds float32, got float64"):
        writer.commit_features(THETA, GRAD.double())
    values = THETA.numpy()
    for wrong in (values[:1], values[: SHARD - 1], values[:SHARD].reshape(2, -1), values[0]):
        with pytest.raises(StoreError, match=r"theta/c/0 holds 4096 values, got \("):
            writer.commit_features(lambda shard: wrong, GRAD)  # noqa: B023
    with pytest.raises(StoreError, match="mask 1 does not follow mask -1"):
        writer.commit_alive(1, MASKS[1])
    with pytest.raises(StoreError, match="0 of 3 masks are committed; the run is not finished"):
        writer.finish()
    writer = TripleWriter.open(tmp_path, LAYOUT, N, {}, shard=SHARD)
    assert storage_of(tmp_path).sizes().keys() == {*metadata_of(()), LEDGER}
    writer.commit_features(lambda shard: values[shard], GRAD)  # a shard at a time, or whole
    with pytest.raises(StoreError, match="committed before"):
        writer.commit_features(THETA, GRAD)
    with pytest.raises(StoreError, match="mask 2 does not follow mask 0"):
        writer.commit_alive(2, MASKS[2])
    with pytest.raises(StoreError, match="the mask is of another layout"):
        writer.commit_alive(1, drawn.draw(SIZE).masks[1])
    assert np.array_equal(writer.store.theta(), values)


def test_it_goes_on_with_a_run_from_before_an_option_was_there(tmp_path: Path) -> None:
    TripleWriter.open(tmp_path, LAYOUT, N, {"seed": 0, "recipe": {"epochs": 3}})
    later = {"seed": 0, "recipe": {"epochs": 3, "clip": 0.0}, "batch_norm": "batch"}
    assert TripleWriter.open(tmp_path, LAYOUT, N, later).committed == -1
    with pytest.raises(UserError, match="of a run with recipe = "):
        TripleWriter.open(tmp_path, LAYOUT, N, {"recipe": {"epochs": 4}})


def test_it_does_not_go_on_with_another_run(tmp_path: Path) -> None:
    run = {"seed": 0, "commit": "a"}
    TripleWriter.open(tmp_path, LAYOUT, N, run, shard=SHARD)
    TripleWriter.open(tmp_path, LAYOUT, N, run | {"commit": "b"})  # newer code
    for layout, iterations in ((LAYOUT, N + 1), (drawn.draw(SIZE).layout, N)):
        with pytest.raises(UserError, match="the store of another network or number of iterations"):
            TripleWriter.open(tmp_path, layout, iterations, run)
    with pytest.raises(UserError, match="of a run with seed = 0, not 1; choose another folder"):
        TripleWriter.open(tmp_path, LAYOUT, N, run | {"seed": 1})
    with pytest.raises(UserError, match="with shards of 4096, not 8192; choose another folder"):
        TripleWriter.open(tmp_path, LAYOUT, N, run, shard=8192)


def test_values_need_not_lie_side_by_side(tmp_path: Path) -> None:
    writer = TripleWriter.open(tmp_path, LAYOUT, N, {}, shard=SHARD)
    both = torch.stack([THETA, GRAD], dim=1)
    writer.commit_features(both[:, 0], both[:, 1])
    assert np.array_equal(writer.store.theta(), THETA)
    assert np.array_equal(writer.store.grad(), GRAD)


def test_a_complete_store_cannot_be_written_to(store: Path) -> None:
    with pytest.raises(StoreError, match="is complete"):
        TripleWriter.open(store, LAYOUT, N, {"seed": 0})


def test_grids() -> None:
    assert Grid.of(266_200).shards == 5
    large = Grid.of(143_652_544)
    assert (large.shard, large.chunk, large.shards) == (1 << 24, 1 << 18, 9)
    for size in (1, 4096, 50_200, 11_164_352, 10**9):
        grid = Grid.of(size)
        shards = [grid.indices(k) for k in range(grid.shards)]
        assert shards[0].start == 0
        assert shards[-1].stop == size
        assert all(a.stop == b.start for a, b in itertools.pairwise(shards))
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
    ledger = Ledger({"a": {"size": 1, "crc32c": 2}}, [1.0])
    ledger.write(storage)
    assert Ledger.read(storage) == ledger
    path = tmp_path / "ledger.json"
    path.write_text(path.read_text().replace("1.0", "0.5"))
    with pytest.raises(StoreError, match="checksum mismatch"):
        Ledger.read(storage)
