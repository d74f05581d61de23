"""Writers that write, commit, stop and resume in any order, while files are torn, flipped and lost.

A model knows what was committed: every read returns that, or raises the store's error.
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
from tests.conftest import tree
from tests.store.helpers import Run, StoppedError, advance, bits, flip, random_run, write

SHARD = 64
COLUMN = "probe-gradient"
PATTERNS = [0x7FC00000, 0xFFC12345, 0x7F800001, 0x7F800000, 0x80000000, 0]  # NaNs of three kinds, infinity, -0 and 0

Fillings = list[tuple[int, int]]  # shards and the bit pattern that fills them
fillings = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(PATTERNS)), max_size=3)


def filled(values: Tensor, fillings: Fillings) -> Tensor:
    """Return the values with whole shards of one bit pattern."""
    copy = values.numpy().copy()
    for shard, pattern in fillings:
        bits(copy)[shard * SHARD : (shard + 1) * SHARD] = pattern
    return torch.from_numpy(copy)


class Machine(RuleBasedStateMachine):
    """The model: the number of commits, and the content that damaged files had."""

    steps = 0  # of all machines

    def __init__(self) -> None:
        super().__init__()
        self.damaged: dict[str, bytes] = {}
        self.scratch = tempfile.TemporaryDirectory()  # deleted also if an assertion fails
        self.folder = Path(self.scratch.name)
        self.path = self.folder / "s"
        self.commits, self.finished = 0, False

    @property
    def masks(self) -> int:
        """Number of committed masks beyond m_0, or -1."""
        return min(self.commits - 1, self.run.iterations)

    def open_writer(self, rank: int = 0, size: int = 1) -> TripleWriter:
        """Open the writer of one process of a group."""
        group, run = Group(rank, size, lambda part: [part]), self.run
        return TripleWriter.open(self.path, run.layout, run.iterations, {"seed": 0}, group, columns=run.columns)

    def repair(self) -> None:
        """Restore the damaged files."""
        for name, content in self.damaged.items():
            (self.path / name).write_bytes(content)
        self.damaged.clear()

    def check(self, path: Path, read: Callable[[TripleStore], Any], expected: Any) -> None:
        """Check that a read returns what was committed or, if something is damaged, raises the store's error."""
        try:
            values = read(TripleStore.open(path, unfinished=True))
        except StoreError:
            assert self.damaged
            return
        equal = np.array_equal(bits(values), bits(expected)) if isinstance(values, np.ndarray) else values == expected
        assert equal

    def check_all(self, path: Path, start: int, stop: int, masks: int, survival: bool) -> None:
        """Check all that a store with this number of masks holds of a slice."""
        span, run = slice(start, stop), self.run
        self.check(path, lambda store: store.theta(span), run.theta.numpy()[span])
        self.check(path, lambda store: store.grad(span), run.grad.numpy()[span])
        densities = [mask.density for mask in run.masks]
        self.check(path, lambda store: store.densities == densities[: len(store.densities)], True)
        aligned = slice(start // 8 * 8, stop)
        for i in range(masks + 1):
            self.check(path, lambda store: store.alive(i, aligned), run.masks[i].kept[aligned].numpy())  # noqa: B023
        for i in range(masks):
            self.check(path, lambda store: store.probe(COLUMN, i), run.probe(i)[COLUMN].numpy())  # noqa: B023
        if survival:
            self.check(path, lambda store: store.survival(aligned), run.survival[aligned].astype(np.uint8))

    def teardown(self) -> None:
        """Check that the run can be finished, with the bytes of an undisturbed run."""
        self.repair()
        if hasattr(self, "run"):
            if not self.finished:
                write(self.path, self.run, SHARD)
            write(self.folder / "other", self.run, SHARD)
            assert tree(self.path) == tree(self.folder / "other")
            lines = TripleStore.open(self.path).problems()
            parts = [*self.run.theta.split(SHARD), *self.run.grad.split(SHARD)]
            assert len(lines) == sum(not bool(part.isfinite().all()) for part in parts)
            assert all("is not finite in" in line for line in lines)
        self.scratch.cleanup()

    @initialize(
        size=st.integers(1, 4 * SHARD),
        iterations=st.integers(1, 3),
        seed=st.integers(0, 99),
        theta=fillings,
        grad=fillings,
        pruned=st.integers(0, 3),
    )
    def create(self, size: int, iterations: int, seed: int, theta: Fillings, grad: Fillings, pruned: int) -> None:
        run = random_run(size, iterations, seed)
        for mask in run.masks[1:]:
            mask.kept[max(pruned * SHARD, 1) : (pruned + 1) * SHARD] = False  # a shard of zeros in alive and survival
        self.run = Run(filled(run.theta, theta), filled(run.grad, grad), run.masks, (COLUMN,))
        write(self.path, self.run, SHARD, until=0)

    @precondition(lambda self: not self.finished)
    @rule(size=st.integers(1, 3), commits=st.integers(0, 5))
    def resume(self, size: int, commits: int) -> None:
        """A group resumes the run and is killed after some commits."""
        self.repair()
        write(self.path, self.run, SHARD, size, commits)
        self.commits += commits
        self.finished = self.commits > self.run.iterations + 2

    @precondition(lambda self: self.commits < self.run.iterations + 2)
    @rule(size=st.integers(1, 3), ranks=st.sets(st.integers(0, 2)))
    def die_before_the_commit(self, size: int, ranks: set[int]) -> None:
        """Some processes of a group have written their shards when all are killed."""
        self.repair()
        self.open_writer()

        def kill(part: Any) -> list[Any]:
            raise StoppedError

        for rank in ranks & set(range(size)):
            writer = self.open_writer(max(rank, 1), size)  # not the main process, which removes uncommitted files
            writer._group = Group(rank, size, kill)
            with pytest.raises(StoppedError):
                advance(writer, self.run)

    @precondition(lambda self: not self.finished)
    @rule(names=st.lists(st.sampled_from(["theta/c/.0.ab.tmp", "alive/c/0/.1.cd.tmp", ".complete.ef.tmp"]), max_size=2))
    def leave_temporary_files(self, names: list[str]) -> None:
        for name in names:
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_bytes(b"half of a fi")

    @precondition(lambda self: hasattr(self, "run"))
    @rule(data=st.data(), damages=st.integers(1, 3))
    def damage(self, data: st.DataObject, damages: int) -> None:
        """A bit is flipped, the end of a file is lost, or a whole file."""
        for _ in range(damages):
            if not (files := tree(self.path)):
                return
            name = data.draw(st.sampled_from(sorted(files)))
            content = files[name]
            self.damaged.setdefault(name, content)
            kind = data.draw(st.sampled_from(["flipped", "torn", "lost"]))
            if kind == "lost" or not content:
                (self.path / name).unlink()
                continue
            bit = data.draw(st.integers(0, 8 * len(content) - 1))
            (self.path / name).write_bytes(flip(content, bit) if kind == "flipped" else content[: bit // 8])

    @precondition(lambda self: self.damaged)
    @rule(size=st.integers(1, 3), commits=st.integers(0, 5))
    def resume_a_damaged_store(self, size: int, commits: int) -> None:
        """A group does not notice, or refuses; what it leaves is right."""
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
    def read_uncommitted_values(self) -> None:
        self.repair()
        store = TripleStore.open(self.path, unfinished=True)
        with pytest.raises(StoreError, match=f"mask {self.masks + 1} does not exist"):
            store.mask(self.masks + 1)
        with pytest.raises(StoreError, match="survival/c/0 was never committed"):
            store.survival()

    @invariant()
    def only_a_finished_store_opens(self) -> None:
        if not hasattr(self, "run"):
            return
        Machine.steps += 1
        densities = [mask.density for mask in self.run.masks[: self.masks + 1]]
        self.check(self.path, lambda store: store.densities, densities)
        self.check(self.path, lambda store: store.complete or (self.finished and bool(self.damaged)), self.finished)
        if not self.finished:
            message = None if self.damaged else rf"not finished \({max(self.masks, 0)} of {self.run.iterations} iter"
            with pytest.raises(StoreError, match=message):
                TripleStore.open(self.path)


def run(examples: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    limits = settings(max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(Machine, settings=limits)


def test_disturbed_run_ends_with_the_bytes_of_an_undisturbed_one() -> None:
    run(12)


@pytest.mark.long
def test_ten_thousand_steps_return_no_wrong_value() -> None:
    before = Machine.steps
    run(600)
    assert Machine.steps - before >= 10_000
