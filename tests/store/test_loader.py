"""Batches hold what the order says, for any number of threads and processes, also after a stop."""

import itertools
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autosparse.errors import StoreError, UserError
from autosparse.store import TripleLoader, Triples, TripleStore, sample
from autosparse.store.order import Part, part_indices
from benchmarks.mixing import batch_indices
from tests.store.helpers import bits, random_run, write

# The last one has survival of 16 bits.
RUNS = [random_run(20_011), random_run(9_001, iterations=5, seed=1), random_run(700, iterations=255, seed=2)]
SHARDS = [4096, 1024, 4096]
BATCH = 480


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[TripleStore]:
    folder = tmp_path_factory.mktemp("stores")
    for number, (run, shard) in enumerate(zip(RUNS, SHARDS, strict=True)):
        write(folder / str(number), run, shard)
    return [TripleStore.open(folder / str(number)) for number in range(len(RUNS))]


def loader(stores: list[TripleStore], size: int = BATCH, **options: Any) -> TripleLoader:
    """Return a loader with 24 streams of one chunk per shuffle buffer."""
    return TripleLoader(stores, size, **{"seed": 5, "memory": "4MB", **options})


def take(source: TripleLoader, n: int) -> list[Triples]:
    """Return the next batches, over the ends of epochs."""
    epochs = itertools.chain.from_iterable(itertools.repeat(source))
    return list(itertools.islice(epochs, n))


def join(parts: list[Triples]) -> Triples:
    """Return the parts end to end."""
    return Triples(*(torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def same(a: Triples, b: Triples) -> bool:
    """Return True if types and bits are the same."""
    pairs = [(getattr(a, name).numpy(), getattr(b, name).numpy()) for name in vars(a)]
    return all(x.dtype == y.dtype and np.array_equal(bits(x), bits(y)) for x, y in pairs)


def all_same(a: list[Triples], b: list[Triples]) -> bool:
    return all(same(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("numbers", "part", "memory"), [([0], "train", "400kB"), ([0, 1, 2], "held-out", "4MB"), ([2, 0], "all", "512MB")]
)
def test_batches_hold_what_the_order_says_in_small_integers(
    stores: list[TripleStore], numbers: list[int], part: Part, memory: str
) -> None:
    chosen, runs = [stores[k] for k in numbers], [RUNS[k] for k in numbers]
    starts = np.cumsum([0] + [len(run) for run in runs])[:-1]
    theta, grad = torch.cat([run.theta for run in runs]), torch.cat([run.grad for run in runs])
    narrow = np.uint16 if 2 in numbers else np.uint8
    survival = torch.from_numpy(np.concatenate([run.survival for run in runs]).astype(narrow))
    source = loader(chosen, 96, part=part, memory=memory)
    for epoch in range(2):
        order = source.order(epoch)
        batches = list(source)
        assert len(batches) == len(source) == order.batches
        for number in {0, 1, len(batches) // 2, len(batches) - 1}:
            store, index = batch_indices(order, number)
            flat = torch.from_numpy(starts[store] + index)
            expected = Triples(theta[flat], grad[flat], survival[flat], torch.from_numpy(store.astype(np.uint8)))
            assert same(batches[number], expected)


@pytest.mark.parametrize("threads", [0, 4])
def test_threads_change_nothing_and_end_with_the_iteration(stores: list[TripleStore], threads: int) -> None:
    assert all_same(take(loader(stores, threads=threads), 75), take(loader(stores), 75))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("triples")]


@pytest.mark.parametrize("memory", ["4MB", "512MB"])  # 24 streams of equal width, 192 of 2 or 3 columns
@pytest.mark.parametrize("world_size", [2, 8])
def test_processes_share_each_batch(stores: list[TripleStore], world_size: int, memory: str) -> None:
    ranks = [take(loader(stores, rank=r, world_size=world_size, memory=memory), 70) for r in range(world_size)]
    for whole, *parts in zip(take(loader(stores, memory=memory), 70), *ranks, strict=True):
        assert {len(part) for part in parts} == {BATCH // world_size}
        assert same(whole, join(parts))


@pytest.mark.parametrize("sizes", [(1, 1), (8, 3)])
@pytest.mark.parametrize("stop", [20, 32, 33, 71])  # an epoch has 33 batches
def test_saved_position_resumes_on_any_number_of_processes(
    stores: list[TripleStore], stop: int, sizes: tuple[int, int]
) -> None:
    before, after = ([loader(stores[:2], 768, rank=r, world_size=n) for r in range(n)] for n in sizes)
    for rank in before:
        take(rank, stop)
    states = [rank.state_dict() for rank in before]
    assert all(state == states[0] for state in states)
    for rank in after:
        rank.load_state_dict(json.loads(json.dumps(states[0])))
    whole = loader(stores[:2], 768)
    assert len(whole) == 33
    resumed = [join(list(parts)) for parts in zip(*(take(rank, 8) for rank in after), strict=True)]
    assert all_same(resumed, take(whole, stop + 8)[stop:])


@pytest.mark.parametrize(
    ("options", "name"), [({"seed": 6}, "seed"), ({"memory": "5MB"}, "memory"), ({"stores": [1, 0, 2]}, "stores")]
)
def test_position_of_another_order_raises(stores: list[TripleStore], options: dict[str, Any], name: str) -> None:
    state = loader(stores).state_dict()
    chosen = [stores[k] for k in options.get("stores", range(3))]
    with pytest.raises(UserError, match=f"the saved position has other {name}: .*, not "):
        loader(chosen, **{key: value for key, value in options.items() if key != "stores"}).load_state_dict(state)


def test_counters_count_samples_and_bytes(stores: list[TripleStore]) -> None:
    source = loader(stores[:2])
    batches = take(source, 10)
    assert source.counters.samples == sum(map(len, batches)) == 10 * BATCH
    assert source.counters.bytes >= 10 * BATCH * 9
    assert str(source.counters).endswith("waiting for data")
    once = loader(stores[:1], threads=0)  # The store fits into memory.
    take(once, 2 * len(once))
    assert once.counters.bytes == 9 * len(stores[0])


def test_damage_raises_in_the_iteration(tmp_path: Path) -> None:
    write(tmp_path, RUNS[0], 4096)
    source = loader([TripleStore.open(tmp_path)])
    (tmp_path / "grad" / "c" / "2").unlink()
    with pytest.raises(StoreError, match="grad/c/2 is missing"):
        list(source)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("triples")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world_size": 7}, "a batch of 480 cannot be divided among 7 processes"),
        ({"world_size": 16}, "24 streams cannot be divided among 16 processes; use --memory 17.5 MB for 192 streams"),
        ({"memory": "100kB"}, r"memory of 100kB is less than one chunk .*; give at least 270.3 kB"),
        ({"weights": (1e-4, 1e-4, 1e-4)}, r"\d triples are too few for batches of 480"),
    ],
)
def test_impossible_options_raise(stores: list[TripleStore], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        loader(stores, **options)


def test_stores_that_are_not_a_list_of_open_ones_raise(stores: list[TripleStore]) -> None:
    not_stores: list[Any] = [stores[0], ["runs/irp/NAME"], "runs/irp/NAME"]
    for given in not_stores:
        with pytest.raises(UserError, match=r"takes a list of open stores: TripleLoader\(\[TripleStore.open\(path\)\]"):
            TripleLoader(given, BATCH)


@pytest.mark.parametrize("part", ["held-out", "all"])
def test_sample_is_drawn_from_every_shard(stores: list[TripleStore], part: Part) -> None:
    size = len(stores[0])
    whole = sample(stores[0], 1 << 20, 5, part)
    assert torch.equal(whole.grad, RUNS[0].grad[torch.from_numpy(part_indices(0, size, 5, part))])
    few = sample(stores[0], 500, 5, part)
    assert len(few) == pytest.approx(500, abs=5)
    index = {grad: k for k, grad in enumerate(RUNS[0].grad.tolist())}
    chosen = [index[grad] for grad in few.grad.tolist()]
    assert chosen == sorted(set(chosen))
    assert np.bincount(np.array(chosen) // 4096)[:4].min() > 80
