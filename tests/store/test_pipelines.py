"""zarr-python and zarrs read the same, in any slice; the choice between them is one array's, not the process's."""

import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from autosparse.errors import UserError
from autosparse.store import TripleStore, TripleWriter
from tests.store.drawn import Drawn, bits, draw, write

SIZE, SHARD = 1_100_003, 1 << 19  # two chunks a shard; the last shard has one, cut short, the last byte of alive too
PIPELINES = [
    "zarr",
    pytest.param("zarrs", marks=pytest.mark.skipif(not importlib.util.find_spec("zarrs"), reason="no")),
]


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


@pytest.fixture(scope="module", params=PIPELINES)
def store(path: Path, request: pytest.FixtureRequest) -> TripleStore:
    return TripleStore.open(path, pipeline=request.param)


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


def test_what_decodes_an_array_is_its_own_whatever_other_threads_open(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("zarrs")
    layout = draw(100).layout
    TripleWriter.open(tmp_path, layout, 3, {"seed": 0})
    before = zarr.config.get("codec_pipeline.path")

    def decoder(number: int) -> tuple[str, str]:
        """The pipeline asked for, and the one that the arrays have; every third is a writer's."""
        if number % 3 == 2:
            writer = TripleWriter.open(tmp_path, layout, 3, {"seed": 0})
            return "zarr", type(writer._arrays["theta"].async_array.codec_pipeline).__name__
        store = TripleStore.open(path, pipeline=("zarr", "zarrs")[number % 3])
        return store.pipeline, type(store._arrays["theta"].async_array.codec_pipeline).__name__

    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(decoder, range(120)))
    assert found == {("zarr", "BatchedCodecPipeline"), ("zarrs", "ZarrsCodecPipeline")}
    assert zarr.config.get("codec_pipeline.path") == before


def test_pipelines_are_chosen_by_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown pipeline 'rust'; valid: auto, zarr, zarrs"):
        TripleStore.open(path, pipeline="rust")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert TripleStore.open(path).pipeline == "zarr"
    with pytest.raises(UserError, match=r"zarrs reads folders, where it is installed"):
        TripleStore.open(path, pipeline="zarrs")
