"""Writers that write, commit, crash and go on in any order, while files are torn and flipped.

Beside them a plain list of what was committed: whatever is read is that, or the store raises its error.
"""

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

from autosparse.distributed import Group
from autosparse.errors import StoreError
from autosparse.store import TripleStore, TripleWriter
from autosparse.store.verify import problems
from tests.conftest import tree
from tests.store.drawn import Drawn, StoppedError, advance, bits, draw, write

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
    """The model: how far the run is, and what the files that are damaged now had in them."""

    steps = 0  # of all machines

    def __init__(self) -> None:
        super().__init__()
        self.damaged: dict[str, bytes] = {}
        self.scratch = tempfile.TemporaryDirectory()  # deleted also where an assertion fails
        self.folder = Path(self.scratch.name)
        self.path = self.folder / "s"
        self.commits, self.finished = 0, False

    @property
    def masks(self) -> int:
        """How many are committed beyond m_0, or -1."""
        return min(self.commits - 1, self.run.iterations)

    def opened(self, rank: int = 0, size: int = 1) -> TripleWriter:
        """The writer of one process, when another of its group has cleaned up."""
        group = Group(rank, size, lambda part: [part])
        return TripleWriter.open(self.path, self.run.layout, self.run.iterations, {"seed": 0}, group)

    def mend(self) -> None:
        """Put back what was damaged."""
        for name, content in self.damaged.items():
            (self.path / name).write_bytes(content)
        self.damaged.clear()

    def check(self, path: Path, read: Callable[[TripleStore], Any], expected: Any) -> None:
        """What is read is what was committed; where something is damaged, the store's error will do."""
        try:
            found = read(TripleStore.open(path, unfinished=True))
        except StoreError:
            assert self.damaged
            return
        same = np.array_equal(bits(found), bits(expected)) if isinstance(found, np.ndarray) else found == expected
        assert same

    def check_all(self, path: Path, start: int, stop: int, masks: int, survival: bool) -> None:
        """All that a store of so many masks has of a slice."""
        span, run = slice(start, stop), self.run
        self.check(path, lambda store: store.theta(span), run.theta.numpy()[span])
        self.check(path, lambda store: store.grad(span), run.grad.numpy()[span])
        densities = [mask.density for mask in run.masks]
        self.check(path, lambda store: store.densities == densities[: len(store.densities)], True)
        whole = slice(start // 8 * 8, stop)
        for i in range(masks + 1):
            self.check(path, lambda store: store.alive(i, whole), run.masks[i].kept[whole].numpy())  # noqa: B023
        if survival:
            narrow = run.survival[whole].astype(np.uint8)
            self.check(path, lambda store: store.survival(whole), narrow)

    def teardown(self) -> None:
        """Whatever happened, the run can be ended, with the bytes of one that nothing happened to."""
        self.mend()
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
        write(self.path, self.run, SHARD, until=0)

    @precondition(lambda self: not self.finished)
    @rule(size=st.integers(1, 3), commits=st.integers(0, 5))
    def go_on(self, size: int, commits: int) -> None:
        """The processes of a group, killed when so many commits are done."""
        self.mend()
        write(self.path, self.run, SHARD, size, commits)
        self.commits += commits
        self.finished = self.commits > self.run.iterations + 2

    @precondition(lambda self: self.commits < self.run.iterations + 2)
    @rule(size=st.integers(1, 3), ranks=st.sets(st.integers(0, 2)))
    def die_before_the_commit(self, size: int, ranks: set[int]) -> None:
        """Some processes have written their shards of what comes next."""
        self.mend()
        self.opened()

        def killed(part: Any) -> list[Any]:
            raise StoppedError

        for rank in ranks & set(range(size)):
            writer = self.opened(max(rank, 1), size)  # which does not clean up again
            writer._group = Group(rank, size, killed)
            with pytest.raises(StoppedError):
                advance(writer, self.run)

    @precondition(lambda self: not self.finished)
    @rule()
    def finish_too_early(self) -> None:
        self.mend()
        if self.masks < self.run.iterations:
            with pytest.raises(StoreError, match=rf"{max(self.masks, 0)} of {self.run.iterations} masks are committed"):
                self.opened().finish()

    @precondition(lambda self: not self.finished)
    @rule(left=st.lists(st.sampled_from(["theta/c/.0.ab.tmp", "alive/c/0/.1.cd.tmp", ".complete.ef.tmp"]), max_size=2))
    def leave(self, left: list[str]) -> None:
        """Half of a file."""
        for name in left:
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_bytes(b"half of wh")

    @precondition(lambda self: hasattr(self, "run"))
    @rule(data=st.data(), damages=st.integers(1, 3))
    def damage(self, data: st.DataObject, damages: int) -> None:
        """A bit is flipped, the end of a write is lost, or a file is."""
        for _ in range(damages):
            if not (files := tree(self.path)):  # all are lost
                return
            name = data.draw(st.sampled_from(sorted(files)))
            content = bytearray(files[name])
            self.damaged.setdefault(name, files[name])
            how = data.draw(st.sampled_from(["flipped", "torn", "lost"]))
            if how == "lost" or not content:
                (self.path / name).unlink()
                continue
            place = data.draw(st.integers(0, 8 * len(content) - 1))
            content[place // 8] ^= 1 << place % 8
            (self.path / name).write_bytes(content if how == "flipped" else content[: place // 8])

    @precondition(lambda self: self.damaged)
    @rule(size=st.integers(1, 3), commits=st.integers(0, 5))
    def go_on_with_what_is_damaged(self, size: int, commits: int) -> None:
        """The processes of a group do not notice, or refuse; nothing that they leave is wrong."""
        copy = self.folder / "damaged"
        shutil.copytree(self.path, copy)
        with contextlib.suppress(StoreError, threading.BrokenBarrierError):  # of the others, when one has refused
            write(copy, self.run, SHARD, size, commits)
        self.check_all(copy, 0, len(self.run), self.run.iterations, survival=True)
        shutil.rmtree(copy)

    @precondition(lambda self: self.masks >= 0)
    @rule(data=st.data())
    def read_a_slice(self, data: st.DataObject) -> None:
        start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(self.run))] * 2)))
        self.check_all(self.path, start, stop, self.masks, self.commits >= self.run.iterations + 2)

    @precondition(lambda self: self.masks < self.run.iterations)
    @rule()
    def read_what_is_not_there(self) -> None:
        self.mend()
        store = TripleStore.open(self.path, unfinished=True)
        with pytest.raises(StoreError, match=f"mask {self.masks + 1} is not there"):
            store.mask(self.masks + 1)
        with pytest.raises(StoreError, match="survival/c/0 was never committed"):
            store.survival()

    @invariant()
    def only_a_finished_store_is_opened(self) -> None:
        if not hasattr(self, "run"):
            return
        Machine.steps += 1
        densities = [mask.density for mask in self.run.masks[: self.masks + 1]]
        self.check(self.path, lambda store: store.densities, densities)
        self.check(self.path, lambda store: store.complete or (self.finished and bool(self.damaged)), self.finished)
        if not self.finished:
            unfinished = None if self.damaged else rf"not finished \({max(self.masks, 0)} of {self.run.iterations} iter"
            with pytest.raises(StoreError, match=unfinished):
                TripleStore.open(self.path)


def run(machine: type[Machine], examples: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    limits = settings(max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(machine, settings=limits)


def test_any_course_of_a_run_ends_with_the_same_bytes() -> None:
    run(Machine, 20)


@pytest.mark.long
def test_ten_thousand_steps_and_no_wrong_number() -> None:
    before = Machine.steps
    run(Machine, 600)
    assert Machine.steps - before >= 10_000
