"""Memory is bounded by the options, not by the store: stores several times larger than a process may take."""

import os
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from autosparse.pruning import Layer, Layout, Mask
from autosparse.store import TripleLoader, TripleStore, TripleWriter
from tests.store.helpers import random_run, succeeds, write

MB = 10**6

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux how much memory is taken")


def write_large(path: Path, size: int, shard: int | None) -> None:
    """Write a store shard by shard."""
    layout = Layout((Layer("a.weight", (size,), 0, 1, 1),))
    writer = TripleWriter.open(path, layout, 1, {}, shard=shard)
    writer.commit_features(*[lambda shard: np.arange(shard.start, shard.stop, dtype=np.float32)] * 2)
    writer.commit_alive(1, Mask(layout, torch.arange(size, dtype=torch.int32) % 2 == 0))
    writer.finish()


def limit(beyond: int) -> None:
    """Limit the memory of this process to what it has now and some bytes beyond."""
    used = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert used
    resource.setrlimit(resource.RLIMIT_DATA, (int(used[1]) * 1024 + beyond,) * 2)


def iterate(large: Path, small: Path, memory: str, beyond: int) -> None:
    """Read all batches of a store; of a small one first, so that all threads have started."""
    list(TripleLoader([TripleStore.open(small)], 4096, part="all"))
    source = TripleLoader([TripleStore.open(large)], 4096, part="all", memory=memory)
    limit(beyond)
    total = sum(int(batch.survival.sum()) for batch in source)
    assert total == pytest.approx(len(source) * 4096 / 2, rel=0.01)


def scan(large: Path, small: Path, beyond: int) -> None:
    list(TripleStore.open(small).scan("theta", "grad", "survival"))
    store = TripleStore.open(large)
    limit(beyond)
    total = sum(int(columns["survival"].sum()) for _, columns in store.scan("theta", "grad", "survival"))
    assert total == -(-len(store) // 2)


def read_all(large: Path, small: Path, beyond: int) -> None:
    """Read everything, which the limit prevents."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    store = TripleStore.open(large)
    limit(beyond)
    np.concatenate([store.theta(), store.grad()])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small")
    write(path, random_run(200_000))
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """216 MB of triples."""
    path = tmp_path_factory.mktemp("large")
    write_large(path, 24_000_000, 1 << 20)
    yield path
    shutil.rmtree(path)


def test_a_store_larger_than_memory_is_read(large: Path, small: Path) -> None:
    assert not succeeds(read_all, large, small, 120 * MB)
    assert succeeds(iterate, large, small, "16MB", 120 * MB)
    assert succeeds(scan, large, small, 120 * MB)


@pytest.mark.long
def test_a_store_many_times_larger_than_memory_is_read(tmp_path: Path, small: Path) -> None:
    """1.8 GB."""
    write_large(tmp_path / "s", 200_000_000, None)
    assert succeeds(iterate, tmp_path / "s", small, "64MB", 300 * MB)
    assert succeeds(scan, tmp_path / "s", small, 300 * MB)
    shutil.rmtree(tmp_path)
