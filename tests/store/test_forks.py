"""A store is read in child processes of any kind."""

import multiprocessing
import pickle
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from autosparse.store import TripleStore
from tests.store.drawn import draw, write
from tests.store.test_kill import start

RUN, SHARD = draw(20_011), 4096
PATIENCE = 100  # seconds, for a child that may wait forever


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


def ends_well(process: BaseProcess) -> bool:
    process.join(PATIENCE)
    process.kill()
    return process.exitcode == 0


def fork(path: Path) -> None:
    """Read a store, and have a forked child read it too; in a process of its own, without pytest's threads."""
    store = TripleStore.open(path)
    read(store)
    assert ends_well(forked(read, store))
    read(store)


def forked(target: Callable[..., None], *arguments: object) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def test_it_is_read_in_a_child_that_starts_afresh(path: Path) -> None:
    store = TripleStore.open(path)
    read(store)
    assert ends_well(start(read, store))


def test_it_is_read_in_a_forked_child(path: Path) -> None:
    assert ends_well(start(fork, path))


def test_a_pickled_store_is_a_path_and_how_to_open_it(path: Path, tmp_path: Path) -> None:
    store = TripleStore.open(path)
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    read(again)
    assert again.fingerprint == store.fingerprint
    write(tmp_path, RUN, SHARD, until=2)
    unfinished = pickle.loads(pickle.dumps(TripleStore.open(tmp_path, unfinished=True)))
    assert not unfinished.complete
    assert np.array_equal(unfinished.theta(), RUN.theta)
