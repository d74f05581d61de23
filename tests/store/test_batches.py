from pathlib import Path

import numpy as np
import pytest
import torch

from autosparse.errors import UserError
from autosparse.store import TripleBatches, Triples, TripleStore, sample
from autosparse.store.order import Order, count, held_out
from tests.store.test_store import GRAD, SIZE, SURVIVAL, THETA, write


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[TripleStore]:
    folder = tmp_path_factory.mktemp("stores")
    for name in ("one", "two"):
        write(folder / name)
    return [TripleStore.open(folder / name) for name in ("one", "two")]


def batches(stores: list[TripleStore], size: int = 512, **options: object) -> TripleBatches:
    return TripleBatches(stores, size, **{"seed": 5, "block": 1000, "mix": 3, **options})


def take(source: TripleBatches, n: int) -> list[Triples]:
    iterator, found = iter(source), []
    while len(found) < n:
        found += [next(iterator, None)]
        if found[-1] is None:
            found.pop()
            iterator = iter(source)
    return found


def same(a: Triples, b: Triples) -> bool:
    return all(torch.equal(getattr(a, field), getattr(b, field)) for field in ("theta", "grad", "survival", "store"))


def test_an_epoch_holds_each_triple_once(stores: list[TripleStore]) -> None:
    everything = Triples.cat(list(batches(stores, 2, part="all")))
    assert len(everything) == 2 * SIZE
    for k in (0, 1):
        mine = everything[everything.store == k]
        order = np.lexsort((mine.theta.numpy(), mine.grad.numpy()))
        expected = np.lexsort((THETA.numpy(), GRAD.numpy()))
        assert np.array_equal(mine.theta.numpy()[order], THETA.numpy()[expected])
        assert np.array_equal(mine.survival.numpy()[order], SURVIVAL[expected])


def test_the_parts_of_the_split_are_disjoint_and_together_all(stores: list[TripleStore]) -> None:
    parts = [Triples.cat(list(batches(stores[:1], 1, part=part))) for part in ("train", "held-out")]
    assert len(parts[1]) == pytest.approx(SIZE / 10, abs=1)
    values = np.sort(np.concatenate([part.grad.numpy() for part in parts]))
    assert np.array_equal(values, np.sort(GRAD.numpy()))
    pairs = [set(zip(part.theta.tolist(), part.grad.tolist(), strict=True)) for part in parts]
    assert not pairs[0] & pairs[1]


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_the_order_is_the_same_for_any_number_of_processes(stores: list[TripleStore], world_size: int) -> None:
    ranks = [take(batches(stores, rank=r, world_size=world_size), 75) for r in range(world_size)]
    for whole, *parts in zip(take(batches(stores), 75), *ranks, strict=True):
        assert same(whole, Triples.cat(parts))


def test_epochs_differ_and_a_seed_repeats(stores: list[TripleStore]) -> None:
    source = batches(stores)
    first, second = take(source, len(source)), take(source, len(source))
    assert all(same(a, b) for a, b in zip(first, take(batches(stores), len(first)), strict=True))
    assert not same(first[0], second[0])
    assert not same(first[0], take(batches(stores, seed=6), 1)[0])


@pytest.mark.parametrize("stop", [0, 1, 40, 69, 70, 71, 75])
def test_a_saved_position_goes_on_exactly(stores: list[TripleStore], stop: int) -> None:
    source = batches(stores)
    assert len(source) == 70
    take(source, stop)
    state = source.state_dict()
    resumed = batches(stores)
    resumed.load_state_dict(state)
    expected = take(batches(stores), stop + 8)[stop:]
    assert all(same(a, b) for a, b in zip(take(resumed, 8), expected, strict=True))


def test_a_position_of_something_else_is_refused(stores: list[TripleStore]) -> None:
    state = batches(stores).state_dict()
    for other, name in (
        (batches(stores[:1]), "stores"),
        (batches(stores, seed=6), "seed"),
        (batches(stores, 256), "batch_size"),
        (batches(stores, block=999), "block"),
    ):
        with pytest.raises(UserError, match=f"of another {name}"):
            other.load_state_dict(state)


def test_what_cannot_be_iterated_is_refused(stores: list[TripleStore]) -> None:
    with pytest.raises(UserError, match="no triple stores"):
        batches([])
    with pytest.raises(UserError, match="cannot be cut over 3"):
        batches(stores, world_size=3)


def test_a_small_store_gives_its_one_batch(stores: list[TripleStore]) -> None:
    (only,) = batches(stores[:1], 1 << 20, part="all")
    assert len(only) == SIZE


@pytest.mark.parametrize("span", [(0, 0), (0, 1), (3, 9), (7, 12), (10, 20), (5, 1234), (99, 5000)])
@pytest.mark.parametrize("seed", [0, 1, 77])
def test_counts_of_the_split_need_no_hashing(span: tuple[int, int], seed: int) -> None:
    held = held_out(*span, seed)
    assert count(*span, seed, "held-out") == held.sum()
    assert count(*span, seed, "train") == (~held).sum()
    assert count(*span, seed, "all") == len(held)


def test_one_in_ten_is_held_out_and_which_depends_on_the_seed() -> None:
    held = held_out(0, 100_000, 0)
    assert (held.reshape(-1, 10).sum(1) == 1).all()
    assert np.abs(held.reshape(-1, 10).mean(0) - 0.1).max() < 0.01
    assert 0.05 < (held & held_out(0, 100_000, 1)).sum() / held.sum() < 0.15


@pytest.mark.parametrize(("sizes", "block", "mix"), [((10,), 3, 2), ((1000, 1), 64, 4), ((7, 500, 33), 1000, 1)])
@pytest.mark.parametrize("part", ["train", "held-out", "all"])
def test_windows_tile_the_epoch(sizes: tuple[int, ...], block: int, mix: int, part: str) -> None:
    order = Order(sizes, 1, 0, part, block, mix)
    assert len(order) == sum(count(0, size, 1, part) for size in sizes)
    covered = sorted((b.store, b.start, b.stop) for w in order.windows for b in w.blocks)
    assert covered == [(k, s, min(s + block, n)) for k, n in enumerate(sizes) for s in range(0, n, block)]
    for position in range(len(order)):
        window = order.windows[order.find(position)]
        assert window.start <= position < window.start + window.size


def test_reading_a_damaged_store_raises_in_the_iteration(stores: list[TripleStore], tmp_path: Path) -> None:
    write(tmp_path / "s")
    source = batches([TripleStore.open(tmp_path / "s")])
    (tmp_path / "s" / "grad" / "c" / "2").unlink()
    with pytest.raises(UserError, match="grad/c/2 is missing"):
        list(source)


@pytest.mark.parametrize("part", ["held-out", "all"])
def test_a_sample_is_drawn_from_every_shard(stores: list[TripleStore], part: str) -> None:
    whole = sample(stores[0], 1 << 20, 5, part)
    assert len(whole) == count(0, SIZE, 5, part)
    if part == "held-out":
        assert torch.equal(whole.grad, GRAD[torch.from_numpy(held_out(0, SIZE, 5))])
    few = sample(stores[0], 500, 5, part)
    assert len(few) == pytest.approx(500, abs=5)
    position = {pair: k for k, pair in enumerate(zip(THETA.tolist(), GRAD.tolist(), strict=True))}
    found = np.array([position[pair] for pair in zip(few.theta.tolist(), few.grad.tolist(), strict=True)])
    assert len(set(found)) == len(few)
    assert np.bincount(found // 4096, minlength=5)[:4].min() > 80
