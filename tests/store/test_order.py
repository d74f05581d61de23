"""The order of samples by itself: nothing twice, nearly nothing left out, everything from everywhere."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autosparse.errors import UserError
from autosparse.store.order import Order, Part, part_indices, part_size
from benchmarks.mixing import dispersion

few = settings(max_examples=50, deadline=None)
PARTS: tuple[Part, ...] = ("train", "held-out", "all")

orders = st.integers(1, 3).flatmap(
    lambda stores: st.builds(
        Order,
        sizes=st.tuples(*[st.integers(1, 500)] * stores),
        chunks=st.tuples(*[st.integers(8, 300)] * stores),
        batch_size=st.integers(10, 200),
        seed=st.integers(0, 2**31),
        epoch=st.integers(0, 1000),
        part=st.sampled_from(PARTS),
        lanes=st.integers(1, 12),
        mix=st.integers(1, 6),
        weights=st.none() | st.tuples(*[st.floats(0.1, 3)] * stores),
    )
)


def everything(order: Order) -> NDArray[np.int64]:
    """All batches of an epoch, (batches, 2, B)."""
    return np.stack([order.indices(batch) for batch in range(order.batches)])


def names(samples: NDArray[np.int64]) -> set[tuple[int, int]]:
    """Store and index, each sample once."""
    return set(zip(*samples.tolist(), strict=True))


def samples_of(order: Order, lane: int) -> NDArray[np.int64]:
    """All that lies in a lane's windows, whether or not a batch has it."""
    chunks = [chunk for window in order.windows(lane) for chunk in window.chunks]
    return np.concatenate([(np.full(b.take, b.store), b.start + order.samples(b)) for b in chunks], axis=1)


def enough(order: Order) -> Order:
    """The order, if there are samples for one batch."""
    if len(order) < min(order.lanes, order.batch_size):
        with pytest.raises(UserError, match="triples are too few for batches of"):
            order.indices(0)
        assume(False)
    return order


def check_epoch(order: Order) -> None:
    """Every batch full, no sample in two, all of the part but less than one batch."""
    line = names(
        np.array([(k, i) for k, n in enumerate(order.sizes) for i in part_indices(0, n, order.seed, order.part)]).T
    )
    assert len(order) == len(line)
    batches = everything(order)
    assert batches.shape == (order.batches, 2, order.size)
    assert order.batches >= 1
    found = names(np.concatenate(list(batches), axis=1))
    assert len(found) == order.batches * order.size
    assert found <= line
    assert len(line) - len(found) < order.size


@few
@given(orders)
def test_an_epoch_is_disjoint_batches_of_nearly_everything(order: Order) -> None:
    check_epoch(enough(replace(order, weights=None)))


@pytest.mark.long
@settings(max_examples=5000, deadline=None)
@given(orders)
def test_many_epochs_are_disjoint_batches_of_nearly_everything(order: Order) -> None:
    check_epoch(enough(replace(order, weights=None)))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("batch_size", [1, 12, 100, 500])
@pytest.mark.parametrize(("lanes", "mix"), [(1, 1), (1, 8), (12, 1), (24, 3)])
@pytest.mark.parametrize(("sizes", "chunks"), [((400,), (16,)), ((7, 250, 133), (8, 128, 40)), ((399,), (1000,))])
def test_an_epoch_of_many_shapes(
    sizes: tuple[int, ...], chunks: tuple[int, ...], lanes: int, mix: int, batch_size: int, part: Part
) -> None:
    check_epoch(Order(sizes, chunks, batch_size, 3, 1, part, lanes, mix))


@few
@given(orders)
def test_lanes_cut_batch_and_line_and_windows_cut_lanes(order: Order) -> None:
    order = enough(order)
    lanes = range(order.number_of_lanes)
    columns = [order.columns(lane) for lane in lanes]
    assert columns[0].start == 0
    assert columns[-1].stop == order.size
    assert all(a.stop == b.start for a, b in itertools.pairwise(columns))
    widths = [c.stop - c.start for c in columns]
    assert max(widths) - min(widths) <= 1
    for lane, width in zip(lanes, widths, strict=True):
        windows = order.windows(lane)
        assert [w.number for w in windows] == list(range(len(windows)))
        assert [w.start for w in windows] == np.cumsum([0] + [w.size for w in windows])[:-1].tolist()
        assert all(len(w.chunks) == order.mix for w in windows[:-1])
        assert 1 <= len(windows[-1].chunks) <= order.mix
        assert all(w.size == sum(b.take for b in w.chunks) for w in windows)
        assert sum(w.size for w in windows) >= order.batches * width
        for w in windows:
            assert sorted(order.permutation(w)) == list(range(w.size))
    together = np.concatenate([samples_of(order, lane) for lane in lanes], axis=1)
    assert together.shape[1] == len(order)
    on_the_line = np.concatenate([(np.full(b.take, b.store), b.start + order.samples(b)) for b in order.line], axis=1)
    assert sorted(zip(*together.tolist(), strict=True)) == sorted(zip(*on_the_line.tolist(), strict=True))


@few
@given(orders)
def test_a_batch_is_found_without_those_before_and_the_same_each_time(order: Order) -> None:
    order = enough(order)
    again = replace(order)
    last = again.indices(order.batches - 1)
    assert np.array_equal(everything(order)[-1], last)


@few
@given(orders.filter(lambda order: order.weights is not None))
def test_a_weight_is_how_often_a_sample_comes(order: Order) -> None:
    order = enough(order)
    line = np.concatenate([(np.full(b.take, b.store), b.start + order.samples(b)) for b in order.line], axis=1)
    for k, weight in enumerate(order.weights or ()):
        times = np.bincount(line[1][line[0] == k], minlength=order.sizes[k])
        chosen = part_indices(0, order.sizes[k], order.seed, order.part)
        assert times.sum() == times[chosen].sum()
        if len(chosen):
            assert int(weight) <= times[chosen].min() <= times[chosen].max() <= np.ceil(weight)
        chunks = -(-order.sizes[k] // order.chunks[k])
        assert weight * len(chosen) - chunks - 1e-6 <= times.sum() <= weight * len(chosen) + 1e-6


def test_a_half_is_drawn_anew_in_every_epoch() -> None:
    halves = []
    for epoch in range(4):
        order = Order((4000,), (400,), 10, 0, epoch, "all", weights=(0.5,))
        halves.append(np.concatenate([order.samples(chunk) for chunk in order.line]) + np.repeat(range(10), 200) * 400)
    for a, b in itertools.combinations(halves, 2):
        assert len(np.intersect1d(a, b)) == pytest.approx(1000, rel=0.15)


def test_what_is_left_out_changes_from_epoch_to_epoch() -> None:
    order = Order((5000,), (256,), 900, part="all", lanes=12, mix=2)
    left = [
        frozenset(range(5000)) - set(np.concatenate(list(everything(replace(order, epoch=epoch))), axis=1)[1].tolist())
        for epoch in range(12)
    ]
    assert all(len(rest) == 5000 % 900 for rest in left)
    assert len(set(left)) == 12
    assert not frozenset.intersection(*left)


def test_a_lane_is_another_part_of_the_line_in_every_epoch() -> None:
    order = Order((5000,), (256,), 500, part="all", lanes=10)
    lanes = [names(samples_of(replace(order, epoch=epoch), 0)) for epoch in range(8)]
    assert all(len(lane) == 500 for lane in lanes)
    assert len(set.union(*lanes)) > 1500


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    order = Order((5000,), (256,), 500, part="all", lanes=6, mix=2)
    firsts = [replace(order, seed=seed, epoch=epoch).indices(0)[1] for seed in range(3) for epoch in range(3)]
    for a, b in itertools.combinations(firsts, 2):
        assert len(np.intersect1d(a, b)) < 250


@few
@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 2**63 - 2))
def test_the_split_is_the_same_for_any_cut(a: int, b: int, c: int, seed: int) -> None:
    start, middle, stop = sorted((a, b, c))
    for part in PARTS:
        halves = part_indices(start, middle, seed, part), part_indices(middle, stop, seed, part) + middle - start
        whole = part_indices(start, stop, seed, part)
        assert np.array_equal(whole, np.concatenate(halves))
        assert part_size(start, stop, seed, part) == len(whole)
    train, held = (part_indices(start, stop, seed, part) for part in ("train", "held-out"))
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(stop - start))


def test_one_in_ten_is_held_out_and_which_depends_on_the_seed() -> None:
    held = [part_indices(0, 100_000, seed, "held-out") for seed in (0, 1)]
    for chosen in held:
        assert np.array_equal(chosen // 10, np.arange(10_000))
        assert np.abs(np.bincount(chosen % 10, minlength=10) / 10_000 - 0.1).max() < 0.01
    assert 0.05 < len(np.intersect1d(held[0], held[1])) / 10_000 < 0.15


def tenth(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ten classes, one after the other along the index, as labels or layers lie."""
    return index // 10_000


@pytest.mark.parametrize("part", PARTS)
def test_a_good_mix_is_as_even_as_a_shuffle_and_a_bad_one_is_not(part: Part) -> None:
    order = Order((100_000,), (1000,), 500, 7, 0, part, lanes=1, mix=101)  # all in one window
    assert dispersion(order, tenth) == pytest.approx(1, abs=0.35)
    assert dispersion(replace(order, lanes=50, mix=2), tenth) < 1.35
    assert dispersion(replace(order, lanes=100, mix=2), tenth) < 0.1  # a lane is from one class
    assert dispersion(replace(order, mix=1), tenth) > 50
