"""Any slice is read as it was written, by this package and by others that read Zarr."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from autosparse.store import TripleStore
from tests.store.drawn import Drawn, bits, draw, write

SIZE, SHARD = 1_100_003, 1 << 19  # two chunks a shard; the last shard has one, cut short, the last byte of alive too


@pytest.fixture(scope="module")
def run() -> Drawn:
    run = draw(SIZE, iterations=2)
    run.theta[: 1 << 18], run.grad[5:900_000:7] = 0.0, torch.nan
    return run


@pytest.fixture(scope="module")
def path(run: Drawn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store")
    write(path, run, SHARD)
    return path


@pytest.fixture(scope="module")
def store(path: Path) -> TripleStore:
    return TripleStore.open(path)


def edges() -> Iterator[tuple[int, int]]:
    """Slices that start and stop at, before and after chunks, shards and the end."""
    ends = [0, 1, 7, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, SHARD - 1, SHARD, SHARD + 9, 2 * SHARD, SIZE - 1, SIZE]
    yield from ((start, stop) for start in ends for stop in ends if start <= stop)


def check(run: Drawn, store: TripleStore, start: int, stop: int) -> None:
    span = slice(start, stop)
    assert np.array_equal(bits(store.theta(span)), bits(run.theta.numpy()[span]))
    assert np.array_equal(bits(store.grad(span)), bits(run.grad.numpy()[span]))
    assert np.array_equal(store.survival(span), run.survival[span])
    span = slice(start // 8 * 8, stop)
    for i, mask in enumerate(run.masks):
        assert np.array_equal(store.alive(i, span), mask.kept[span].numpy())


@pytest.mark.parametrize("span", list(edges()))
def test_slices_at_the_edges(run: Drawn, store: TripleStore, span: tuple[int, int]) -> None:
    check(run, store, *span)


@settings(max_examples=30, deadline=None)
@given(a=st.integers(0, SIZE), b=st.integers(0, SIZE))
def test_any_slice(run: Drawn, store: TripleStore, a: int, b: int) -> None:
    check(run, store, min(a, b), max(a, b))


def test_slices_as_python_has_them(run: Drawn, store: TripleStore) -> None:
    theta = run.theta.numpy()
    for span in (slice(None), slice(-9, None), slice(5, -5), slice(None, 10**12), slice(10**9, None), slice(9, 3)):
        assert np.array_equal(store.theta(span), theta[span])
    assert len(store.alive(1, slice(16, 3))) == len(store.alive(0, slice(16, 3))) == 0
    with pytest.raises(ValueError, match="a slice has no step"):
        store.theta(slice(0, 100, 2))
    with pytest.raises(ValueError, match="starts on a multiple of 8 and has no step"):
        store.alive(1, slice(4, 100))


def test_masks_of_all_iterations(run: Drawn, store: TripleStore) -> None:
    for i, mask in enumerate(run.masks):
        assert torch.equal(store.mask(i).kept, mask.kept)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_scan_is_all_of_it_in_order(run: Drawn, store: TripleStore, threads: int) -> None:
    windows = list(store.scan("theta", "survival", threads=threads))
    assert [span.start for span, _ in windows] == [0, *(span.stop for span, _ in windows[:-1])]
    assert np.array_equal(np.concatenate([columns["theta"] for _, columns in windows]), run.theta)
    assert np.array_equal(np.concatenate([columns["survival"] for _, columns in windows]), run.survival)


def test_shares_of_a_scan_are_all_of_it(store: TripleStore) -> None:
    whole = [span for span, _ in store.scan("survival")]
    assert len(whole) == 3
    for number in range(2):
        assert [span for span, _ in store.scan("survival", share=(number, 2))] == whole[number::2]


def test_many_threads_read_one_store(run: Drawn, store: TripleStore) -> None:
    starts = np.random.default_rng(0).integers(0, SIZE - 5000, 64).tolist()
    with ThreadPoolExecutor(8) as readers:
        for _ in readers.map(lambda start: check(run, store, start, start + 5000), starts):
            pass


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
def test_other_readers_of_zarr_read_the_same(reader: Callable[[Path], dict[str, Any]], path: Path, run: Drawn) -> None:
    arrays = reader(path)
    for span in (slice(0, SIZE), slice(SHARD - 5, SHARD + 9), slice(SIZE - 3, SIZE)):
        assert np.array_equal(bits(np.asarray(arrays["theta"][span])), bits(run.theta.numpy()[span]))
        assert np.array_equal(np.asarray(arrays["survival"][span]), run.survival[span])
    rows = np.unpackbits(np.asarray(arrays["alive"][:]), axis=1, count=SIZE, bitorder="little")
    assert np.array_equal(rows.astype(bool), np.stack([mask.kept.numpy() for mask in run.masks[1:]]))


def test_a_flipped_bit_is_found_by_zarr_too(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "s")
    file = tmp_path / "s" / "theta" / "c" / "1"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        by_zarr(tmp_path / "s")["theta"][SHARD : SHARD + 9]
