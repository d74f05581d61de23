"""Writing: whole shards, one owner each, the same bytes from any number of processes, and no other run's store."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from autosparse.errors import StoreError, UserError
from autosparse.pruning import Layer, Layout, Mask
from autosparse.store import TripleStore, TripleWriter, schema
from autosparse.store.schema import Grid
from tests.conftest import Patch, tree
from tests.store.helpers import Run, random_run, write

SIZE, SHARD, N = 20_011, 4096, 3
COLUMNS = ("probe-gradient", "probe-theta")
LAYOUT = Layout((Layer("a.weight", (111, 100), 0, 100, 111), Layer("b.weight", (8911,), 11_100, 1, 1)))


def two_layers(columns: tuple[str, ...] = ()) -> Run:
    run = random_run(SIZE, N, columns=columns)
    run.theta[:SHARD], run.grad[SHARD : 2 * SHARD] = 0.0, 0.0  # blocks of zeros are data like any other
    return Run(run.theta, run.grad, [Mask(LAYOUT, mask.kept) for mask in run.masks], columns)


RUN = two_layers()


def open_writer(path: Path, run: Run = RUN, shard: int | None = SHARD) -> TripleWriter:
    return TripleWriter.open(path, run.layout, run.iterations, {"seed": 0}, shard=shard, columns=run.columns)


@pytest.mark.parametrize(("columns", "world_size"), [((), 8), (COLUMNS, 2)])
def test_any_number_of_writers_leaves_the_same_bytes_and_what_was_given(
    columns: tuple[str, ...], world_size: int, tmp_path: Path
) -> None:
    run = two_layers(columns)
    for name, size in (("one", 1), ("many", world_size)):
        write(tmp_path / name, run, SHARD, size)
    assert tree(tmp_path / "many") == tree(tmp_path / "one")
    store = TripleStore.open(tmp_path / "many")
    assert store.complete
    assert (store.layout, len(store), store.iterations, store.run) == (LAYOUT, SIZE, N, {"seed": 0})
    assert store.columns == [*columns]
    assert np.array_equal(store.theta(), run.theta.numpy())
    assert np.array_equal(store.grad(), run.grad.numpy())
    assert np.array_equal(store.survival(), run.survival)
    assert store.survival().dtype == np.uint8
    assert store.densities == [mask.density for mask in run.masks]
    for i, mask in enumerate(run.masks):
        assert torch.equal(store.mask(i).kept, mask.kept)
    for i in range(N):
        for name, values in run.probe(i).items():
            assert np.array_equal(store.probe(name, i), values.numpy())
    assert store.problems() == []
    with pytest.raises(StoreError, match="no column probe-rms, "):
        store.probe("probe-rms", 0)


def test_chunks_behind_the_end_of_a_probe_are_not_written(tmp_path: Path) -> None:
    run = random_run(1 << 20, iterations=2, columns=COLUMNS[:1])  # one shard of four chunks
    write(tmp_path, run, 1 << 20)
    sizes = [(tmp_path / COLUMNS[0] / "c" / str(i) / "0").stat().st_size >> 20 for i in range(2)]
    assert [int(mask.count) // (1 << 18) for mask in run.masks] == [4, 2, 1]
    assert sizes == [4, 3]
    store = TripleStore.open(tmp_path)
    assert store.problems() == []
    assert np.array_equal(store.probe(COLUMNS[0], 1), run.probe(1)[COLUMNS[0]].numpy())


def test_verify_finds_values_that_are_not_finite(tmp_path: Path) -> None:
    run = two_layers(COLUMNS)
    writer = open_writer(tmp_path, run)
    writer.commit_features(torch.where(run.theta > 4, torch.nan, run.theta), run.grad)
    for i in range(1, N + 1):
        probe = run.probe(i - 1)
        if i == 2:
            probe["probe-theta"][5] = torch.inf
        writer.commit_alive(i, run.masks[i], probe)
    writer.finish()
    lines = [line.partition(": ")[2] for line in TripleStore.open(tmp_path).problems()]
    shards = sorted({int(k) // SHARD for k in np.flatnonzero(run.theta > 4)})
    expected = [f"theta is not finite in {k * SHARD}:{min((k + 1) * SHARD, SIZE)}" for k in shards]
    assert lines == [*expected, "probe-theta is not finite in iteration 1"]


@pytest.mark.filterwarnings("ignore")  # of xarray: the store is not consolidated and holds other files
def test_every_array_names_its_dimensions_and_xarray_opens_a_store(tmp_path: Path) -> None:
    write(tmp_path, two_layers(COLUMNS), SHARD)
    names = {name: array.metadata.dimension_names for name, array in zarr.open_group(tmp_path, mode="r").arrays()}
    flat, rows = ("parameter",), ("iteration", "survivor")
    expected = {"theta": flat, "grad": flat, "survival": flat, "alive": ("iteration", "byte")}
    assert names == expected | dict.fromkeys(COLUMNS, rows)
    xarray = pytest.importorskip("xarray")
    assert np.array_equal(xarray.open_zarr(tmp_path)["theta"].values, RUN.theta.numpy())


def test_another_schema_raises(tmp_path: Path) -> None:
    write(tmp_path, RUN, SHARD, until=1)
    path = tmp_path / "zarr.json"
    for before, version, advice in ((5, 4, "run the IRP again"), (4, 6, "update autosparse")):
        path.write_text(path.read_text().replace(f'"schema": {before}', f'"schema": {version}'))
        with pytest.raises(StoreError, match=f"has schema {version}, this version reads 5; {advice}"):
            TripleStore.open(tmp_path)


@pytest.mark.parametrize("block", [1 << 22, 1 << 11])  # one or two blocks per shard
def test_ledger_holds_the_mean_squares(block: int, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(schema, "BLOCK", block)
    write(tmp_path, RUN, SHARD, 2, until=1)
    store = TripleStore.open(tmp_path, unfinished=True)
    totals = {"theta": 0.0, "grad": 0.0}
    for _, columns in store.scan(*totals):
        for name, values in columns.items():
            totals[name] += float(np.square(values, dtype=np.float64).sum())
    assert store.mean_squares == {name: total / SIZE for name, total in totals.items()}  # to the last bit
    assert store.mean_squares["grad"] == pytest.approx(RUN.grad.square().mean().item(), rel=1e-5)


def test_a_folder_without_a_store_raises(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no triple store at"):
        TripleStore.open(tmp_path / "none")
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="not empty and not a triple store"):
        open_writer(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_wrong_values_and_iterations_raise(tmp_path: Path) -> None:
    run = two_layers(COLUMNS)
    writer, theta = open_writer(tmp_path, run), run.theta.numpy()
    with pytest.raises(StoreError, match=r"grad/c/\d holds \d+ values of float32, got float64"):
        writer.commit_features(run.theta, run.grad.double())
    with pytest.raises(StoreError, match=r"theta/c/0 holds 4096 values of float32, got float32 \("):
        writer.commit_features(lambda shard: theta[: SHARD - 1], run.grad)
    with pytest.raises(StoreError, match="0 of 3 masks are committed; the run is not finished"):
        writer.finish()
    both = torch.stack([run.theta, run.grad], dim=1)
    writer = open_writer(tmp_path, run)
    writer.commit_features(lambda shard: theta[shard], both[:, 1])  # shard by shard, and not contiguous
    assert np.array_equal(writer.store.theta(), theta)
    assert np.array_equal(writer.store.grad(), run.grad)
    with pytest.raises(StoreError, match="mask 2 does not follow mask 0"):
        writer.commit_alive(2, run.masks[2], run.probe(1))
    with pytest.raises(StoreError, match=r"needs 20011 values of each of \['probe-gradient', 'probe-theta'\], got"):
        writer.commit_alive(1, run.masks[1], {name: torch.ones(5) for name in COLUMNS})


def test_a_run_resumes_without_options_that_are_newer_than_its_store(tmp_path: Path) -> None:
    TripleWriter.open(tmp_path, LAYOUT, N, {"seed": 0, "commit": "a", "recipe": {"epochs": 3}})
    later = {"seed": 0, "commit": "b", "recipe": {"epochs": 3, "clip": 0.0}, "batch_norm": "batch"}
    assert TripleWriter.open(tmp_path, LAYOUT, N, later).committed == -1


def test_a_complete_store_and_another_runs_store_raise(tmp_path: Path) -> None:
    run = {"seed": 0, "recipe": {"epochs": 3}}
    TripleWriter.open(tmp_path / "s", LAYOUT, N, run, shard=SHARD)
    with pytest.raises(UserError, match="is the store of another network; choose another folder"):
        TripleWriter.open(tmp_path / "s", random_run(SIZE).layout, N, run)
    for options, message in (
        ({"iterations": N + 1}, "iterations = 3, not 4"),
        ({"columns": COLUMNS}, r"columns = \[\], not \['probe-gradient', 'probe-theta'\]"),
        ({"run": {"recipe": {"epochs": 4}}}, "recipe = .*3.*, not .*4"),
    ):
        with pytest.raises(UserError, match=f"of a run with {message}.*; choose another folder"):
            TripleWriter.open(tmp_path / "s", **{"layout": LAYOUT, "iterations": N, "run": run, **options})
    write(tmp_path / "complete", RUN, SHARD)
    with pytest.raises(StoreError, match="is complete"):
        open_writer(tmp_path / "complete")


def test_grid_covers_all_sizes() -> None:
    assert Grid.of(266_200).shards == 5
    large = Grid.of(143_652_544)
    assert (large.shard, large.chunk, large.shards) == (1 << 24, 1 << 18, 9)
    for size in (1, 4096, 50_200, 11_164_352, 10**9):
        grid = Grid.of(size)
        shards = [grid.indices(k) for k in range(grid.shards)]
        assert (shards[0].start, shards[-1].stop) == (0, size)
        assert all(a.stop == b.start for a, b in itertools.pairwise(shards))
