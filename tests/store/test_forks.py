"""A store is read in child processes of any kind; where zarrs would wait forever in one, it says so instead."""

import importlib.util
import multiprocessing
import pickle
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from autosparse.errors import UserError
from autosparse.store import TripleStore
from tests.store.drawn import draw, write
from tests.store.test_kill import start

RUN, SHARD = draw(20_011), 4096
PATIENCE = 100  # seconds, for a child that may wait forever

needs_zarrs = pytest.mark.skipif(not importlib.util.find_spec("zarrs"), reason="zarrs is not installed")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store")
    write(path, RUN, SHARD)
    return path


def read(store: TripleStore) -> None:
    assert np.array_equal(store.theta(), RUN.theta)
    assert np.array_equal(store.survival(slice(5, 9999)), RUN.survival[5:9999])
    assert np.array_equal(store.alive(2), RUN.masks[2].kept)
    assert np.array_equal(np.concatenate([columns["grad"] for _, columns in store.scan("grad")]), RUN.grad)


def refused(store: TripleStore) -> None:
    """In a forked child of a process that has used zarrs."""
    assert store.pipeline == "zarrs"
    for attempt in (
        store.theta,
        lambda: store.alive(1),
        lambda: TripleStore.open(str(store.storage), pipeline="zarrs"),
    ):
        with pytest.raises(
            UserError, match="zarrs would deadlock in a forked process; start it by spawn or forkserver"
        ):
            attempt()
    for pipeline in ("auto", "zarr"):
        anew = TripleStore.open(str(store.storage), pipeline=pipeline)
        assert anew.pipeline == "zarr"
        read(anew)


def ends_well(process: BaseProcess) -> bool:
    process.join(PATIENCE)
    process.kill()
    return process.exitcode == 0


def fork(path: Path, pipeline: str, in_child: Callable[[TripleStore], None]) -> None:
    """Read a store, and have a forked child read it too; in a process of its own, without pytest's threads."""
    store = TripleStore.open(path, pipeline=pipeline)
    read(store)
    assert ends_well(forked(in_child, store))
    read(store)


def fork_first(path: Path) -> None:
    assert ends_well(forked(open_and_read, path))


def open_and_read(path: Path) -> None:
    store = TripleStore.open(path)
    assert store.pipeline == "zarrs"
    read(store)


def read_both(one: TripleStore, other: TripleStore) -> None:
    read(one)
    read(other)


def forked(target: Callable[..., None], *arguments: object) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def test_both_pipelines_read_in_a_child_that_starts_afresh(path: Path) -> None:
    stores = TripleStore.open(path, pipeline="zarr"), TripleStore.open(path)
    read_both(*stores)
    assert ends_well(start(read_both, *stores))


def test_zarr_reads_in_a_forked_child(path: Path) -> None:
    assert ends_well(start(fork, path, "zarr", read))


@needs_zarrs
def test_zarrs_is_refused_in_a_forked_child(path: Path) -> None:
    assert ends_well(start(fork, path, "auto", refused))


@needs_zarrs
def test_zarrs_reads_in_a_child_forked_before_it_was_used(path: Path) -> None:
    assert ends_well(start(fork_first, path))


@pytest.mark.parametrize("pipeline", ["auto", "zarr"])
def test_a_pickled_store_is_a_path_and_how_to_open_it(path: Path, tmp_path: Path, pipeline: str) -> None:
    store = TripleStore.open(path, pipeline=pipeline)
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    read(again)
    assert (again.fingerprint, again.pipeline) == (store.fingerprint, store.pipeline)
    write(tmp_path, RUN, SHARD, until=2)
    unfinished = pickle.loads(pickle.dumps(TripleStore.open(tmp_path, unfinished=True)))
    assert not unfinished.complete
    assert np.array_equal(unfinished.theta(), RUN.theta)
