"""Writers that write, commit, crash and go on in any order, beside a plain list of what was committed."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor

from autosparse.errors import StoreError
from autosparse.store import TripleStore, TripleWriter
from autosparse.store.verify import problems
from autosparse.store.writer import Committed
from tests.conftest import tree
from tests.store.drawn import Drawn, bits, draw, write

SHARD = 64
WHOLE = [0x7FC00000, 0xFFC12345, 0x7F800001, 0x7F800000, 0x80000000, 0]  # NaNs of three kinds, infinity, -0 and 0

Blocks = list[tuple[int, int]]  # shards and the bit pattern that fills them
blocks = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(WHOLE)), max_size=3)


def filled(values: Tensor, fillings: Blocks) -> Tensor:
    """Whole shards of one bit pattern."""
    found = values.numpy().copy()
    for shard, pattern in fillings:
        bits(found)[shard * SHARD : (shard + 1) * SHARD] = pattern
    return torch.from_numpy(found)


class Machine(RuleBasedStateMachine):
    """The model: how far the run is, and what is written but not committed."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()  # deleted also where an assertion fails
        self.folder = Path(self.scratch.name)
        self.path = self.folder / "s"
        self.ranks: list[TripleWriter] = []
        self.pending: Committed = {}
        self.written: set[int] = set()  # the ranks that have
        self.masks, self.has_survival, self.finished = -1, False, False

    def teardown(self) -> None:
        """Whatever happened, the run can be ended, with the bytes of one that nothing happened to."""
        if hasattr(self, "run"):
            if not self.finished:
                write(self.path, self.run, SHARD)
            write(self.folder / "other", self.run, SHARD)
            assert tree(self.path) == tree(self.folder / "other")
            found = problems(TripleStore.open(self.path))
            features = {"theta": self.run.theta, "grad": self.run.grad}
            finite = {name: values.isfinite().split(SHARD) for name, values in features.items()}
            assert len(found) == sum(not bool(part.all()) for parts in finite.values() for part in parts)
            assert all("is not finite in" in line for line in found)
        self.scratch.cleanup()

    @initialize(
        size=st.integers(1, 4 * SHARD),
        iterations=st.integers(1, 3),
        seed=st.integers(0, 99),
        theta=blocks,
        grad=blocks,
        gone=st.integers(0, 3),
    )
    def create(self, size: int, iterations: int, seed: int, theta: Blocks, grad: Blocks, gone: int) -> None:
        run = draw(size, iterations, seed)
        for mask in run.masks[1:]:
            mask.kept[max(gone * SHARD, 1) : (gone + 1) * SHARD] = False  # a shard of zeros in alive and survival
        self.run = Drawn(filled(run.theta, theta), filled(run.grad, grad), run.masks)
        TripleWriter.create(self.path, self.run.layout, iterations, {"seed": 0}, SHARD)

    @precondition(lambda self: not self.ranks and not self.finished)
    @rule(world_size=st.integers(1, 3))
    def resume(self, world_size: int) -> None:
        TripleWriter.clean(self.path)
        self.ranks = [TripleWriter.resume(self.path, rank, world_size) for rank in range(world_size)]
        assert {rank.committed for rank in self.ranks} == {self.masks}
        assert {rank.survival_committed for rank in self.ranks} == {self.has_survival}

    @precondition(lambda self: self.ranks and not self.has_survival)
    @rule(data=st.data())
    def write_by_one(self, data: st.DataObject) -> None:
        left = sorted(set(range(len(self.ranks))) - self.written)
        if not left:
            return
        number = data.draw(st.sampled_from(left))
        self.pending |= self.written_by(self.ranks[number])
        self.written.add(number)

    def written_by(self, rank: TripleWriter) -> Committed:
        """What comes next in a run."""
        if self.masks < 0:
            return rank.write_features(self.run.theta, self.run.grad)
        if self.masks < self.run.iterations:
            return rank.write_alive(self.masks + 1, self.run.masks[self.masks + 1])
        return rank.write_survival()

    @precondition(lambda self: self.ranks and len(self.written) == len(self.ranks))
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        density = None
        if self.masks < self.run.iterations:
            self.masks += 1
            density = self.run.masks[self.masks].density
        else:
            self.has_survival = True
        by = data.draw(st.sampled_from(self.ranks))
        by.commit(self.pending, density)
        for rank in self.ranks:
            rank.refresh()
        self.pending, self.written = {}, set()

    @precondition(lambda self: 0 in self.written)
    @rule()
    def write_again(self) -> None:
        with pytest.raises(StoreError, match="another process has written"):
            self.written_by(self.ranks[0])

    @precondition(lambda self: self.ranks and not self.has_survival)
    @rule()
    def finish_too_early(self) -> None:
        with pytest.raises(StoreError, match=r"was never committed; the run is not finished"):
            self.ranks[0].finish()

    @precondition(lambda self: self.ranks and self.has_survival)
    @rule()
    def finish(self) -> None:
        self.ranks[0].finish()
        self.ranks, self.finished = [], True

    @precondition(lambda self: self.ranks)
    @rule(left=st.lists(st.sampled_from(["theta/c/.0.ab.tmp", "alive/c/0/.1.cd.tmp", ".complete.ef.tmp"]), max_size=2))
    def crash(self, left: list[str]) -> None:
        for name in left:
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_bytes(b"half of wh")
        self.ranks, self.pending, self.written = [], {}, set()

    @precondition(lambda self: self.masks >= 0)
    @rule(data=st.data())
    def read_a_slice(self, data: st.DataObject) -> None:
        start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(self.run))] * 2)))
        store = TripleStore.open(self.path, unfinished=True, pipeline=data.draw(st.sampled_from(["auto", "zarr"])))
        span = slice(start, stop)
        assert np.array_equal(bits(store.theta(span)), bits(self.run.theta.numpy()[span]))
        assert np.array_equal(bits(store.grad(span)), bits(self.run.grad.numpy()[span]))
        span = slice(start // 8 * 8, stop)
        for i in range(self.masks + 1):
            assert np.array_equal(store.alive(i, span), self.run.masks[i].kept[span].numpy())
        if self.has_survival:
            assert np.array_equal(store.survival(span), self.run.survival[span])

    @precondition(lambda self: self.masks < self.run.iterations)
    @rule()
    def read_what_is_not_there(self) -> None:
        store = TripleStore.open(self.path, unfinished=True)
        with pytest.raises(StoreError, match=f"mask {self.masks + 1} is not there"):
            store.mask(self.masks + 1)
        with pytest.raises(StoreError, match="survival/c/0 was never committed"):
            store.survival()

    @invariant()
    def only_a_finished_store_is_opened(self) -> None:
        if not hasattr(self, "run"):
            return
        store = TripleStore.open(self.path, unfinished=True)
        assert store.densities == [mask.density for mask in self.run.masks[: self.masks + 1]]
        assert store.complete == self.finished
        if not self.finished:
            with pytest.raises(StoreError, match=rf"not finished \({max(self.masks, 0)} of {self.run.iterations} iter"):
                TripleStore.open(self.path)


def run(machine: type[Machine], examples: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    limits = settings(max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(machine, settings=limits)


def test_any_course_of_a_run_ends_with_the_same_bytes() -> None:
    run(Machine, 20)


@pytest.mark.long
def test_many_courses_of_a_run_end_with_the_same_bytes() -> None:
    run(Machine, 500)
