"""Further columns: what a probe saw in each iteration, of the parameters that were alive in it."""

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from autosparse.errors import StoreError, UserError
from autosparse.store import TripleStore, TripleWriter
from autosparse.store.verify import problems
from tests.conftest import tree
from tests.store import drawn

SHARD = 1 << 12
RUN = drawn.draw(30_011, columns=("probe-gradient", "probe-theta"))


def write(path: Path, world_size: int = 1, until: int = 99) -> TripleStore:
    drawn.write(path, RUN, SHARD, world_size, until)
    return TripleStore.open(path, unfinished=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TripleStore:
    return write(tmp_path_factory.mktemp("columns") / "triples.zarr")


@pytest.mark.parametrize("world_size", [1, 3])
def test_round_trip_and_the_same_bytes_from_any_number_of_writers(
    store: TripleStore, world_size: int, tmp_path: Path
) -> None:
    read = write(tmp_path / "other", world_size)
    assert tree(tmp_path / "other") == tree(Path(str(store.storage)))
    assert read.columns == ["probe-gradient", "probe-theta"]
    assert problems(read) == []
    for i in range(RUN.iterations):
        for name, values in RUN.probe(i).items():
            assert np.array_equal(read.probe(name, i), values.numpy())
            assert len(values) == RUN.masks[i].count


def test_a_column_takes_one_float_a_live_parameter(store: TripleStore) -> None:
    for name in store.columns:
        sizes = [Path(str(store.storage), file).stat().st_size for file in store.files if file.startswith(f"{name}/c/")]
        alive = sum(mask.count for mask in RUN.masks[:-1])
        assert 4 * alive <= sum(sizes) < 4 * (alive + RUN.iterations * SHARD) + 64 * len(sizes)


def test_chunks_behind_the_end_of_a_row_are_not_written(tmp_path: Path) -> None:
    run = drawn.draw(1 << 20, iterations=2, columns=("probe-gradient",))  # one shard of four chunks
    drawn.write(tmp_path, run, 1 << 20)
    store = TripleStore.open(tmp_path)
    assert [int(mask.count) // (1 << 18) for mask in run.masks] == [4, 2, 1]
    sizes = [(tmp_path / "probe-gradient" / "c" / str(i) / "0").stat().st_size >> 20 for i in range(2)]
    assert sizes == [4, 3]
    assert problems(store) == []
    assert np.array_equal(store.probe("probe-gradient", 1), run.probe(1)["probe-gradient"].numpy())


@pytest.mark.parametrize("commits", range(6))
def test_an_interrupted_store_ends_with_the_same_bytes(store: TripleStore, commits: int, tmp_path: Path) -> None:
    write(tmp_path / "cut", until=commits)
    write(tmp_path / "cut")
    assert tree(tmp_path / "cut") == tree(Path(str(store.storage)))


def test_a_damaged_shard_is_found(tmp_path: Path) -> None:
    store = write(tmp_path)
    path = tmp_path / "probe-theta" / "c" / "1" / "0"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"probe-theta/c/1/0 is damaged .*, chunk 0"):
        store.probe("probe-theta", 1)
    assert any("probe-theta/c/1/0" in problem for problem in problems(store))


def test_what_is_no_number_is_found(tmp_path: Path) -> None:
    writer = TripleWriter.open(tmp_path, RUN.layout, RUN.iterations, {}, columns=("probe-theta",))
    writer.commit_features(RUN.theta, RUN.grad)
    for i in range(1, RUN.iterations + 1):
        values = torch.ones(RUN.masks[i - 1].count)
        values[5] = torch.nan if i == 2 else 0.0
        writer.commit_alive(i, RUN.masks[i], {"probe-theta": values})
    writer.finish()
    assert [line.partition(": ")[2] for line in problems(TripleStore.open(tmp_path))] == [
        "probe-theta is not finite in iteration 1"
    ]


def test_what_is_not_there_is_refused(store: TripleStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no column probe-rms, only probe-gradient, probe-theta"):
        store.probe("probe-rms", 0)
    with pytest.raises(StoreError, match="iteration 3 is not there; 3 are committed"):
        store.probe("probe-theta", 3)
    plain = drawn.draw(1000)
    drawn.write(tmp_path / "plain", plain)
    with pytest.raises(StoreError, match="run IRP with --probe-steps"):
        TripleStore.open(tmp_path / "plain").probe("probe-theta", 0)
    writer = TripleWriter.open(tmp_path / "half", RUN.layout, RUN.iterations, {}, columns=RUN.columns)
    with pytest.raises(UserError, match="of a run with probe-gradient and probe-theta, not no probe; choose another"):
        TripleWriter.open(tmp_path / "half", RUN.layout, RUN.iterations, {})
    writer.commit_features(RUN.theta, RUN.grad)
    with pytest.raises(StoreError, match=r"wants .*probe-theta.* with each mask, got"):
        writer.commit_alive(1, RUN.masks[1])
    with pytest.raises(StoreError, match="probe-gradient has 30011 values, got"):
        writer.commit_alive(1, RUN.masks[1], {name: torch.ones(5) for name in RUN.columns})


@pytest.mark.filterwarnings("ignore")  # of zarr and xarray: what else lies there, and that there is no consolidation
def test_every_array_names_its_dimensions_and_xarray_opens_a_store(tmp_path: Path) -> None:
    write(tmp_path / "s")
    arrays = dict(zarr.open_group(tmp_path / "s", mode="r").arrays())
    names = {name: array.metadata.dimension_names for name, array in arrays.items()}
    flat, rows = ("parameter",), ("iteration", "survivor")
    assert names == {"theta": flat, "grad": flat, "survival": flat, "alive": ("iteration", "byte")} | dict.fromkeys(
        RUN.columns, rows
    )
    lengths = {
        (name, size) for array, found in names.items() for name, size in zip(found, arrays[array].shape, strict=True)
    }
    assert len(lengths) == len(dict(lengths))
    xarray = pytest.importorskip("xarray")
    opened = xarray.open_zarr(tmp_path / "s")
    assert np.array_equal(opened["theta"].values, RUN.theta.numpy())
