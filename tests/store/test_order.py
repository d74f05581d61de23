"""The order of samples: no sample twice, nearly none dropped, every batch from everywhere."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autosparse.errors import UserError
from autosparse.store.order import Chunk, Order, Part, part_indices, part_size
from benchmarks.mixing import batch_indices, dispersion

few = settings(max_examples=30, deadline=None)
PARTS: tuple[Part, ...] = ("train", "held-out", "all")

orders = st.integers(1, 3).flatmap(
    lambda stores: st.builds(
        Order,
        store_sizes=st.tuples(*[st.integers(1, 500)] * stores),
        chunk_sizes=st.tuples(*[st.integers(8, 300)] * stores),
        batch_size=st.integers(10, 200),
        seed=st.integers(0, 2**31),
        epoch=st.integers(0, 1000),
        part=st.sampled_from(PARTS),
        streams=st.integers(1, 12),
        chunks_per_buffer=st.integers(1, 6),
        weights=st.none() | st.tuples(*[st.floats(0.1, 3)] * stores),
    )
)


def everything(order: Order) -> NDArray[np.int64]:
    """Return all batches of an epoch, (batches, 2, B)."""
    return np.stack([batch_indices(order, batch) for batch in range(order.batches)])


def names(samples: NDArray[np.int64]) -> set[tuple[int, int]]:
    """Return store and index of each sample once."""
    return set(zip(*samples.tolist(), strict=True))


def samples_of(order: Order, chunks: list[Chunk]) -> NDArray[np.int64]:
    """Return store and index of all samples of some chunks."""
    return np.concatenate([(np.full(c.take, c.store), c.start + order.samples(c)) for c in chunks], axis=1)


def samples_of_stream(order: Order, stream: int) -> NDArray[np.int64]:
    """Return store and index of all samples of a stream, also of those that no batch has."""
    return samples_of(order, [chunk for buffer in order.buffers(stream) for chunk in buffer.chunks])


def enough(order: Order) -> Order:
    """Return the order if it has samples for one batch."""
    if len(order) < min(order.streams, order.batch_size):
        with pytest.raises(UserError, match="triples are too few for batches of"):
            batch_indices(order, 0)
        assume(False)
    return order


def check_epoch(order: Order) -> None:
    """Check that every batch is full, no sample occurs twice, and less than one batch of the part is dropped."""
    parts = [part_indices(0, size, order.seed, order.part) for size in order.store_sizes]
    expected = {(k, i) for k, part in enumerate(parts) for i in part.tolist()}
    assert len(order) == len(expected)
    batches = everything(order)
    assert order.batches >= 1
    assert batches.shape == (order.batches, 2, order.effective_batch_size)
    samples = names(np.concatenate(list(batches), axis=1))
    assert len(samples) == order.batches * order.effective_batch_size
    assert samples <= expected
    assert len(expected) - len(samples) < order.effective_batch_size


@few
@given(orders)
def test_epoch_is_disjoint_batches_of_nearly_everything(order: Order) -> None:
    check_epoch(enough(replace(order, weights=None)))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("batch_size", [1, 500])
@pytest.mark.parametrize(("streams", "chunks_per_buffer"), [(1, 8), (24, 3)])
def test_epoch_of_any_shape_is_disjoint_batches(
    streams: int, chunks_per_buffer: int, batch_size: int, part: Part
) -> None:
    check_epoch(Order((7, 250, 133), (8, 128, 40), batch_size, 3, 1, part, streams, chunks_per_buffer))


@few
@given(orders)
def test_streams_divide_batch_and_sequence_and_buffers_divide_streams(order: Order) -> None:
    order = enough(order)
    streams = range(order.stream_count)
    columns = [order.columns(stream) for stream in streams]
    assert (columns[0].start, columns[-1].stop) == (0, order.effective_batch_size)
    assert all(a.stop == b.start for a, b in itertools.pairwise(columns))
    widths = [c.stop - c.start for c in columns]
    assert max(widths) - min(widths) <= 1
    for stream, width in zip(streams, widths, strict=True):
        buffers = order.buffers(stream)
        assert [b.number for b in buffers] == list(range(len(buffers)))
        assert [b.start for b in buffers] == np.cumsum([0] + [b.size for b in buffers])[:-1].tolist()
        assert all(len(b.chunks) == order.chunks_per_buffer for b in buffers[:-1])
        assert 1 <= len(buffers[-1].chunks) <= order.chunks_per_buffer
        assert all(b.size == sum(chunk.take for chunk in b.chunks) for b in buffers)
        assert sum(b.size for b in buffers) >= order.batches * width
        for b in buffers:
            assert sorted(order.permutation(b)) == list(range(b.size))
    together = np.concatenate([samples_of_stream(order, stream) for stream in streams], axis=1)
    assert together.shape[1] == len(order)
    sequence = samples_of(order, order.sequence)
    assert sorted(zip(*together.tolist(), strict=True)) == sorted(zip(*sequence.tolist(), strict=True))


@few
@given(orders.filter(lambda order: order.weights is not None))
def test_weight_is_how_often_a_sample_occurs(order: Order) -> None:
    order = enough(order)
    sequence = samples_of(order, order.sequence)
    for k, weight in enumerate(order.weights or ()):
        times = np.bincount(sequence[1][sequence[0] == k], minlength=order.store_sizes[k])
        chosen = part_indices(0, order.store_sizes[k], order.seed, order.part)
        assert times.sum() == times[chosen].sum()
        if len(chosen):
            assert int(weight) <= times[chosen].min() <= times[chosen].max() <= np.ceil(weight)
        chunks = -(-order.store_sizes[k] // order.chunk_sizes[k])
        assert weight * len(chosen) - chunks - 1e-6 <= times.sum() <= weight * len(chosen) + 1e-6


def test_orders_of_seeds_and_epochs_differ_and_a_fraction_is_drawn_anew() -> None:
    order = Order((5000,), (256,), 500, part="all", streams=6, chunks_per_buffer=2)
    firsts = [batch_indices(replace(order, seed=seed, epoch=epoch), 0)[1] for seed in range(3) for epoch in range(3)]
    for a, b in itertools.combinations(firsts, 2):
        assert len(np.intersect1d(a, b)) < 250
    orders = [Order((4000,), (400,), 10, 0, epoch, "all", weights=(0.5,)) for epoch in range(4)]
    halves = [samples_of(order, order.sequence)[1] for order in orders]
    for a, b in itertools.combinations(halves, 2):
        assert len(np.intersect1d(a, b)) == pytest.approx(1000, rel=0.15)


@few
@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 2**63 - 2))
def test_split_is_the_same_for_any_cut(a: int, b: int, c: int, seed: int) -> None:
    start, middle, stop = sorted((a, b, c))
    for part in PARTS:
        halves = part_indices(start, middle, seed, part), part_indices(middle, stop, seed, part) + middle - start
        whole = part_indices(start, stop, seed, part)
        assert np.array_equal(whole, np.concatenate(halves))
        assert part_size(start, stop, seed, part) == len(whole)
    train, held = (part_indices(start, stop, seed, part) for part in ("train", "held-out"))
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(stop - start))


def test_one_in_ten_is_held_out_and_depends_on_the_seed() -> None:
    held = [part_indices(0, 100_000, seed, "held-out") for seed in (0, 1)]
    for chosen in held:
        assert np.array_equal(chosen // 10, np.arange(10_000))
        assert np.abs(np.bincount(chosen % 10, minlength=10) / 10_000 - 0.1).max() < 0.01
    assert 0.05 < len(np.intersect1d(held[0], held[1])) / 10_000 < 0.15


def tenth(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the class of each index among ten, one after the other as labels or layers are."""
    return index // 10_000


def test_many_streams_mix_as_evenly_as_a_shuffle_and_one_does_not() -> None:
    order = Order((100_000,), (1000,), 500, 7, 0, "train", streams=1, chunks_per_buffer=101)  # all in one buffer
    assert dispersion(order, tenth) == pytest.approx(1, abs=0.35)
    assert dispersion(replace(order, streams=50, chunks_per_buffer=2), tenth) < 1.35
    assert dispersion(replace(order, streams=100, chunks_per_buffer=2), tenth) < 0.1  # each stream is of one class
    assert dispersion(replace(order, chunks_per_buffer=1), tenth) > 50
