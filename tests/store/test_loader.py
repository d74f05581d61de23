"""Batches hold what the order says, for any number of threads and processes; what cannot be is refused in one line."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autosparse.errors import StoreError, UserError
from autosparse.store import TripleLoader, Triples, TripleStore, sample
from autosparse.store.order import Part, part_indices, part_size
from tests.store.drawn import bits, draw, write

RUNS = [draw(20_011, seed=0), draw(9_001, iterations=5, seed=1), draw(700, iterations=255, seed=2)]  # 16 bits survival
SHARDS = [4096, 1024, 4096]
BATCH = 480


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[TripleStore]:
    folder = tmp_path_factory.mktemp("stores")
    for number, (run, shard) in enumerate(zip(RUNS, SHARDS, strict=True)):
        write(folder / str(number), run, shard)
    return [TripleStore.open(folder / str(number)) for number in range(len(RUNS))]


def batches(stores: list[TripleStore], size: int = BATCH, **options: Any) -> TripleLoader:
    """Of 24 lanes, a chunk a window."""
    return TripleLoader(stores, size, **{"seed": 5, "memory": "4MB", **options})


def take(source: TripleLoader, n: int) -> list[Triples]:
    """The next batches, over the ends of epochs."""
    found = list[Triples]()
    while len(found) < n:
        for batch in source:
            found.append(batch)
            if len(found) == n:
                break
    return found


def same(a: Triples, b: Triples) -> bool:
    """Bit for bit."""
    fields = [(getattr(a, field).numpy(), getattr(b, field).numpy()) for field in vars(a)]
    return all(x.dtype == y.dtype and np.array_equal(bits(x), bits(y)) for x, y in fields)


def triples(batch: Triples) -> list[tuple[int, float, float]]:
    """What names each sample: no two are drawn alike."""
    return list(zip(batch.store.tolist(), batch.theta.tolist(), batch.grad.tolist(), strict=True))


@pytest.mark.parametrize("numbers", [[0], [1], [0, 1, 2], [2, 0]])
@pytest.mark.parametrize("part", ["train", "held-out", "all"])
@pytest.mark.parametrize("memory", ["400kB", "4MB", "512MB"])
def test_what_is_read_is_what_the_order_says(
    stores: list[TripleStore], numbers: list[int], part: Part, memory: str
) -> None:
    chosen, runs = [stores[k] for k in numbers], [RUNS[k] for k in numbers]
    starts = np.cumsum([0] + [len(run) for run in runs])[:-1]
    theta, grad = torch.cat([run.theta for run in runs]), torch.cat([run.grad for run in runs])
    survival = torch.from_numpy(np.concatenate([run.survival for run in runs]))
    source = batches(chosen, 96, part=part, memory=memory)
    for epoch in range(2):
        order = source.order(epoch)
        found = list(source)
        assert len(found) == len(source) == order.batches
        for number in {0, 1, len(found) // 2, len(found) - 1}:
            store, index = order.indices(number)
            storage = torch.from_numpy(starts[store] + index)
            expected = Triples(theta[storage], grad[storage], survival[storage], torch.from_numpy(store))
            assert same(found[number], expected)


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_threads_change_nothing_and_end_with_the_iteration(stores: list[TripleStore], threads: int) -> None:
    mine = take(batches(stores, threads=threads), 75)
    assert all(same(a, b) for a, b in zip(mine, take(batches(stores), 75), strict=True))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("triples")]


@pytest.mark.parametrize("memory", ["4MB", "512MB"])  # 24 lanes of equal width, 192 of 2 or 3 columns
@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_processes_share_each_batch(stores: list[TripleStore], world_size: int, memory: str) -> None:
    ranks = [take(batches(stores, rank=r, world_size=world_size, memory=memory), 70) for r in range(world_size)]
    for whole, *parts in zip(take(batches(stores, memory=memory), 70), *ranks, strict=True):
        assert {len(part) for part in parts} == {BATCH // world_size}
        assert same(whole, Triples.cat(parts))


@pytest.mark.parametrize("part", ["train", "held-out", "all"])
def test_an_epoch_holds_no_triple_twice_and_all_but_less_than_a_batch(stores: list[TripleStore], part: Part) -> None:
    everything = Triples.cat(list(batches(stores[:2], 16, part=part)))
    expected = sum(part_size(0, len(store), 5, part) for store in stores[:2])
    assert len(everything) == expected // 16 * 16
    assert len(set(triples(everything))) == len(everything)


def test_the_parts_of_the_split_share_no_triple(stores: list[TripleStore]) -> None:
    train, held = (Triples.cat(list(batches(stores[:1], 1, part=part))) for part in ("train", "held-out"))
    assert len(held) == pytest.approx(len(stores[0]) / 10, abs=1)
    assert np.array_equal(np.sort(torch.cat([train.grad, held.grad])), np.sort(RUNS[0].grad))
    assert not set(triples(train)) & set(triples(held))


def test_epochs_differ_and_a_seed_repeats(stores: list[TripleStore]) -> None:
    source = batches(stores)
    first, second = list(source), list(source)
    assert len(first) == len(second) == len(source)
    assert all(same(a, b) for a, b in zip(first, take(batches(stores), len(first)), strict=True))
    assert not any(same(a, b) for a, b in zip(first, second, strict=True))
    assert not same(first[0], take(batches(stores, seed=6), 1)[0])


def test_a_small_store_gives_one_batch_of_nearly_all(stores: list[TripleStore]) -> None:
    (only,) = batches(stores[:1], 1 << 20, part="all")
    assert len(only) == len(stores[0]) // 48 * 48  # of 48 lanes
    assert len(set(triples(only))) == len(only)


def test_weights_say_how_often_a_store_comes(stores: list[TripleStore]) -> None:
    two, source = stores[:2], batches(stores[:2], 24, weights=(2, 0.5), part="all")
    halves = []
    for _ in range(3):
        epoch = Triples.cat(list(source))
        mine, other = (triples(epoch[epoch.store == k]) for k in (0, 1))
        assert len(mine) == pytest.approx(2 * len(two[0]), abs=24)
        assert set(Counter(mine).values()) <= {1, 2}
        assert len(other) == pytest.approx(len(two[1]) / 2, abs=24)
        assert len(set(other)) == len(other)
        halves.append(set(other))
    for a, b in ((0, 1), (1, 2), (0, 2)):  # drawn apart, they share half of themselves
        assert len(halves[a] & halves[b]) == pytest.approx(len(two[1]) / 4, rel=0.15)


def test_counters_count_what_was_given_and_read(stores: list[TripleStore]) -> None:
    source = batches(stores[:2])
    assert str(source.counters) == "0 triples/s, 0 B read, 0% waiting for data"
    found = take(source, 10)
    assert source.counters.samples == sum(map(len, found)) == 10 * BATCH
    assert source.counters.bytes >= 10 * BATCH * 9
    assert 0 <= source.counters.waited <= source.counters.seconds
    assert str(source.counters).endswith("waiting for data")


def test_a_store_that_fits_is_read_once(stores: list[TripleStore]) -> None:
    once, anew = (batches(stores[:1], memory=memory, threads=0) for memory in ("4MB", "300kB"))
    assert all(same(a, b) for a, b in zip(list(once), take(batches(stores[:1]), len(once)), strict=True))
    take(once, 2 * len(once))
    assert once.counters.bytes == 9 * len(stores[0])
    take(anew, 2 * len(anew))
    assert anew.counters.bytes > 9 * len(stores[0])


def test_damage_raises_in_the_iteration(tmp_path: Path) -> None:
    write(tmp_path, RUNS[0], 4096)
    source = batches([TripleStore.open(tmp_path)])
    (tmp_path / "grad" / "c" / "2").unlink()
    with pytest.raises(StoreError, match="grad/c/2 is missing"):
        list(source)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("triples")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "a batch of 0 cannot be cut over 1 processes"),
        ({"world_size": 7}, "a batch of 480 cannot be cut over 7 processes"),
        ({"world_size": 5}, r"24 lanes cannot be cut over 5 processes; 192, .* cannot either: use another number"),
        ({"world_size": 40}, "40 processes for 15 chunks of triples; use fewer"),
        ({"memory": "100kB"}, r"memory of 100kB is less than one chunk .*; give at least 270.3 kB"),
        ({"memory": "plenty"}, "'plenty' is not a size of memory; write it like 512MB"),
        ({"weights": (1,)}, "1 weights for 3 stores"),
        ({"weights": (1, -1, 1)}, "weights must be positive numbers, got 1 -1 1"),
        ({"weights": (1, 0, 1)}, "weights must be positive"),
        ({"weights": (1, float("nan"), 1)}, "weights must be positive"),
        ({"weights": (1, 1, float("inf"))}, "weights must be positive"),
        ({"threads": -1}, "threads must be 0 or more, got -1"),
        ({"weights": (1e-4, 1e-4, 1e-4)}, r"\d triples are too few for batches of 480"),
    ],
)
def test_what_cannot_be_is_refused(stores: list[TripleStore], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        batches(stores, **options)


def test_no_stores_are_refused() -> None:
    with pytest.raises(UserError, match="no triple stores"):
        batches([])


@pytest.mark.parametrize("part", ["held-out", "all"])
def test_a_sample_is_drawn_from_every_shard(stores: list[TripleStore], part: Part) -> None:
    size = len(stores[0])
    whole = sample(stores[0], 1 << 20, 5, part)
    assert torch.equal(whole.grad, RUNS[0].grad[torch.from_numpy(part_indices(0, size, 5, part))])
    few = sample(stores[0], 500, 5, part)
    assert len(few) == pytest.approx(500, abs=5)
    position = {grad: k for k, grad in enumerate(RUNS[0].grad.tolist())}
    found = [position[grad] for grad in few.grad.tolist()]
    assert found == sorted(set(found))
    assert np.bincount(np.array(found) // 4096)[:4].min() > 80
