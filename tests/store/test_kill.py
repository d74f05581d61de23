"""A run killed at any instant ends with the bytes of one that was not, and nobody reads it as whole before."""

import itertools
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from autosparse.errors import StoreError
from autosparse.store import TripleStore, writer
from tests.conftest import tree
from tests.store.drawn import Drawn, draw, write

RUN, SHARD = draw(20_011), 4096
SMALL = draw(100, iterations=1)  # of two shards
KILLED = 7

processes = multiprocessing.get_context("forkserver")  # a child is there at once, and has none of pytest's threads
processes.set_forkserver_preload([__name__])


def write_slowly(path: Path) -> None:
    """A run of some tenths of a second."""
    with mock.patch("os.fsync", side_effect=lambda descriptor: time.sleep(0.001)):
        write(path, RUN, SHARD)


def write_and_die(path: Path, last: int) -> None:
    """A run that is gone before its call number `last` of the system."""
    calls = itertools.count(1)

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) == last:
                os._exit(KILLED)
            return function(*arguments, **options)

        return call

    for name in ("link", "replace", "unlink", "mkdir", "scandir"):
        setattr(os, name, dying(getattr(os, name)))
    os.fsync = dying(lambda descriptor: None)
    writer._AT_A_TIME = 1  # so that the calls come in one order
    write(path, SMALL, 64)


def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    process = processes.Process(target=target, args=arguments)
    process.start()
    return process


def look(path: Path, run: Drawn) -> bool:
    """Whether the store can be opened as whole. What can be read of it, then or before, must be right."""
    try:
        store, is_whole = TripleStore.open(path), True
    except StoreError:
        is_whole = False
        try:
            store = TripleStore.open(path, unfinished=True)
        except StoreError:  # not laid out yet
            return False
    if store.densities:
        assert np.array_equal(store.theta(), run.theta)
        assert np.array_equal(store.grad(), run.grad)
    for i in range(len(store.densities)):
        assert np.array_equal(store.alive(i), run.masks[i].kept)
    if is_whole:
        assert np.array_equal(store.survival(), run.survival)
    return is_whole


def run_again(path: Path, run: Drawn, shard: int) -> dict[str, bytes]:
    """Do what a user does; returns the files."""
    if not look(path, run):
        with pytest.raises(StoreError, match=r"not finished|no triple store at|ledger.json is missing"):
            TripleStore.open(path)
        write(path, run, shard)
    assert look(path, run)
    return tree(path)


def kill_at_random_instants(folder: Path, kills: int) -> None:
    write(folder / "whole", RUN, SHARD)
    expected, duration, instants = tree(folder / "whole"), 0.0, random.Random(0)
    for number in range(kills + 1):  # the first is let live, and timed
        path = folder / str(number)
        process = start(write_slowly, path)
        while not path.exists():
            assert process.is_alive() or path.exists()
        begin, instant = time.monotonic(), instants.uniform(0, duration) if number else 300
        while process.is_alive() and time.monotonic() < begin + instant:
            look(path, RUN)
        duration = duration or time.monotonic() - begin
        process.kill()
        process.join()
        assert run_again(path, RUN, SHARD) == expected


def die_at_steps(folder: Path, stride: int) -> None:
    write(folder / "whole", SMALL, 64)
    expected = tree(folder / "whole")
    for last in itertools.count(1, stride):
        path = folder / str(last)
        process = start(write_and_die, path, last)
        process.join()
        assert process.exitcode in (0, KILLED)
        assert run_again(path, SMALL, 64) == expected
        if process.exitcode == 0:
            assert last > 150
            return


def test_killed_at_random_instants(tmp_path: Path) -> None:
    kill_at_random_instants(tmp_path, 6)


@pytest.mark.long
def test_killed_at_many_random_instants(tmp_path: Path) -> None:
    kill_at_random_instants(tmp_path, 100)


def test_dead_at_one_step_in_five(tmp_path: Path) -> None:
    die_at_steps(tmp_path, 5)


@pytest.mark.long
def test_dead_at_every_step(tmp_path: Path) -> None:
    die_at_steps(tmp_path, 1)


def test_dead_again_and_again(tmp_path: Path) -> None:
    """The second death may come while the remains of the first are cleaned up."""
    write(tmp_path / "whole", SMALL, 64)
    steps, path = random.Random(1), tmp_path / "s"
    for _ in range(25):
        start(write_and_die, path, steps.randrange(1, 60)).join()
    assert run_again(path, SMALL, 64) == tree(tmp_path / "whole")
