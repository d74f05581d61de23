"""Any slice is read as it was written, by this package and by other readers of Zarr, in any process."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from autosparse.store import TripleStore
from tests.store.helpers import Run, bits, random_run, succeeds, write

SIZE, SHARD = 1_100_003, 1 << 19  # two chunks per shard; the last one is cut short, and so is the last byte of alive


@pytest.fixture(scope="module")
def run() -> Run:
    run = random_run(SIZE, iterations=2)
    run.theta[: 1 << 18], run.grad[5:900_000:7] = 0.0, torch.nan
    return run


@pytest.fixture(scope="module")
def path(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store")
    write(path, run, SHARD)
    return path


@pytest.fixture(scope="module")
def store(path: Path) -> TripleStore:
    return TripleStore.open(path)


def edges() -> Iterator[tuple[int, int]]:
    """Yield slices that start and stop at, before and after chunks, shards and the end."""
    ends = [0, 7, (1 << 18) - 1, 1 << 18, SHARD - 1, SHARD, SHARD + 9, SIZE - 1, SIZE]
    yield from ((start, stop) for start in ends for stop in ends if start <= stop)


def check(run: Run, store: TripleStore, start: int, stop: int) -> None:
    span = slice(start, stop)
    assert np.array_equal(bits(store.theta(span)), bits(run.theta.numpy()[span]))
    assert np.array_equal(bits(store.grad(span)), bits(run.grad.numpy()[span]))
    assert np.array_equal(store.survival(span), run.survival[span])
    span = slice(start // 8 * 8, stop)
    for i, mask in enumerate(run.masks):
        assert np.array_equal(store.alive(i, span), mask.kept[span].numpy())


def test_slices_at_edges_are_equal(run: Run, store: TripleStore) -> None:
    for span in edges():
        check(run, store, *span)


def test_slices_follow_python_and_other_indices_raise(run: Run, store: TripleStore) -> None:
    theta = run.theta.numpy()
    for span in (slice(None), slice(-9, None), slice(5, -5), slice(None, 10**12), slice(10**9, None), slice(9, 3)):
        assert np.array_equal(store.theta(span), theta[span])
    assert len(store.alive(1, slice(16, 3))) == len(store.alive(0, slice(16, 3))) == 0
    with pytest.raises(ValueError, match="a slice must have no step"):
        store.theta(slice(0, 100, 2))
    with pytest.raises(ValueError, match="must start at a multiple of 8"):
        store.alive(1, slice(4, 100))
    index: Any = 5
    for read in (store.theta, lambda index: store.alive(1, index)):
        with pytest.raises(ValueError, match=r"read in slices, such as slice\(0, 1000\), got 5"):
            read(index)


def test_a_scan_yields_everything_in_order(run: Run, store: TripleStore) -> None:
    blocks = list(store.scan("theta", "survival"))
    assert len(blocks) == 3
    assert [span.start for span, _ in blocks] == [0, *(span.stop for span, _ in blocks[:-1])]
    assert np.array_equal(np.concatenate([columns["theta"] for _, columns in blocks]), run.theta)
    assert np.array_equal(np.concatenate([columns["survival"] for _, columns in blocks]), run.survival)


def by_zarr(path: Path) -> dict[str, Any]:
    return {name: zarr.open_array(path, path=name, mode="r") for name in ("theta", "grad", "survival", "alive")}


def by_zarrs(path: Path) -> dict[str, Any]:
    pytest.importorskip("zarrs")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}):
        return by_zarr(path)


def by_tensorstore(path: Path) -> dict[str, Any]:
    tensorstore = pytest.importorskip("tensorstore")
    return {
        name: tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / name)}}, open=True
        ).result()
        for name in ("theta", "grad", "survival", "alive")
    }


@pytest.mark.parametrize("reader", [by_zarr, by_zarrs, by_tensorstore])
def test_other_readers_of_zarr_read_the_same(reader: Callable[[Path], dict[str, Any]], path: Path, run: Run) -> None:
    arrays = reader(path)
    for span in (slice(0, SIZE), slice(SHARD - 5, SHARD + 9), slice(SIZE - 3, SIZE)):
        assert np.array_equal(bits(np.asarray(arrays["theta"][span])), bits(run.theta.numpy()[span]))
        assert np.array_equal(np.asarray(arrays["survival"][span]), run.survival[span])
    rows = np.unpackbits(np.asarray(arrays["alive"][:]), axis=1, count=SIZE, bitorder="little")
    assert np.array_equal(rows.astype(bool), np.stack([mask.kept.numpy() for mask in run.masks[1:]]))


def read_pickled(pickled: bytes, run: Run) -> None:
    check(run, pickle.loads(pickled), 5, 600_000)


def test_a_pickled_store_is_read_in_another_process(path: Path, store: TripleStore, run: Run, tmp_path: Path) -> None:
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).fingerprint == store.fingerprint
    assert succeeds(read_pickled, pickled, run)
    write(tmp_path, run, SHARD, until=2)
    unfinished = pickle.loads(pickle.dumps(TripleStore.open(tmp_path, unfinished=True)))
    assert not unfinished.complete
