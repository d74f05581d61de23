"""Memory is bounded by the options, not by the store: stores several times larger than a process may take."""

import os
import re
import resource
import shutil
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
    """Limit the memory of this process to its present memory and some bytes."""
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


def test_a_store_larger_than_memory_is_read(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    write(small, random_run(200_000))
    write_large(large, 24_000_000, 1 << 20)  # 216 MB of triples
    assert not succeeds(read_all, large, small, 120 * MB)
    assert succeeds(iterate, large, small, "16MB", 120 * MB)
    assert succeeds(scan, large, small, 120 * MB)
    shutil.rmtree(large)
