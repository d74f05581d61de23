"""A position is a few integers: saved anywhere, it goes on exactly, in another process and in another world."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from autosparse.errors import UserError
from autosparse.store import TripleLoader, Triples, TripleStore
from tests.store.drawn import draw, write
from tests.store.test_kill import start
from tests.store.test_loader import batches, same, take

BATCH, AN_EPOCH = 768, 33


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("stores")
    for name, run, shard in (("one", draw(20_011), 4096), ("two", draw(9_001, seed=1), 1024)):
        write(folder / name, run, shard)
    return [folder / "one", folder / "two"]


@pytest.fixture(scope="module")
def stores(folders: list[Path]) -> list[TripleStore]:
    return [TripleStore.open(folder) for folder in folders]


def world(stores: list[TripleStore], size: int, state: dict[str, Any] | None = None) -> list[TripleLoader]:
    """One of each process, from a position."""
    ranks = [batches(stores, BATCH, rank=rank, world_size=size) for rank in range(size)]
    for rank in ranks:
        if state is not None:
            rank.load_state_dict(state)
    return ranks


def advance(ranks: list[TripleLoader], n: int) -> list[Triples]:
    """The next global batches of a world."""
    return [Triples.cat(parts) for parts in zip(*(take(rank, n) for rank in ranks), strict=True)]


@pytest.mark.parametrize("sizes", [(1, 1), (1, 4), (8, 3), (2, 1)])
@pytest.mark.parametrize("stop", [0, 1, 20, AN_EPOCH - 1, AN_EPOCH, AN_EPOCH + 1, 2 * AN_EPOCH + 5])
def test_a_saved_position_goes_on_in_any_world(stores: list[TripleStore], stop: int, sizes: tuple[int, int]) -> None:
    before, whole = world(stores, sizes[0]), batches(stores, BATCH)
    assert len(whole) == AN_EPOCH
    advance(before, stop)
    states = [rank.state_dict() for rank in before]
    assert all(state == states[0] for state in states)
    assert json.loads(json.dumps(states[0])) == states[0]
    after, expected = advance(world(stores, sizes[1], states[0]), 8), take(whole, stop + 8)[stop:]
    assert all(same(a, b) for a, b in zip(after, expected, strict=True))


def test_a_world_that_changes_sees_the_order_of_one(stores: list[TripleStore]) -> None:
    found, state = list[Triples](), None
    for size in (1, 2, 8, 3, 4, 6, 1):
        ranks = world(stores, size, state)
        found += advance(ranks, 11)
        state = ranks[-1].state_dict()
    expected = take(batches(stores, BATCH), len(found))
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))


def test_a_batch_given_counts_as_done(stores: list[TripleStore]) -> None:
    source = batches(stores, BATCH)
    for number, _ in enumerate(source, 1):
        assert (source.state_dict()["epoch"], source.state_dict()["batch"]) == (0, number)
    assert (source.state_dict()["epoch"], source.state_dict()["batch"]) == (1, 0)


def save_the_next(state: str, folders: list[Path], file: Path) -> None:
    source = batches([TripleStore.open(folder) for folder in folders], BATCH)
    source.load_state_dict(json.loads(state))
    torch.save([vars(batch) for batch in take(source, 8)], file)


def test_a_new_process_goes_on_bit_for_bit(stores: list[TripleStore], folders: list[Path], tmp_path: Path) -> None:
    source = batches(stores, BATCH)
    take(source, 40)
    assert source.state_dict()["epoch"] == 1
    process = start(save_the_next, json.dumps(source.state_dict()), folders, tmp_path / "batches.pt")
    process.join()
    found = [Triples(**batch) for batch in torch.load(tmp_path / "batches.pt")]
    assert all(same(a, b) for a, b in zip(found, take(source, 8), strict=True))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seed": 6}, "seed"),
        ({"size": 96}, "batch_size"),
        ({"part": "all"}, "part"),
        ({"memory": "5MB"}, "memory"),
        ({"weights": (1, 2)}, "weights"),
        ({"threads": 1, "weights": (1, 1)}, "weights"),
    ],
)
def test_a_position_of_another_order_is_refused(stores: list[TripleStore], options: dict[str, Any], name: str) -> None:
    state = batches(stores, BATCH).state_dict()
    with pytest.raises(UserError, match=f"the saved position is of another {name}: .* there, .* here"):
        batches(stores, **{"size": BATCH, **options}).load_state_dict(state)


def test_a_position_in_other_stores_is_refused(stores: list[TripleStore], tmp_path: Path) -> None:
    state = batches(stores, BATCH).state_dict()
    write(tmp_path / "same", draw(20_011), 4096)
    write(tmp_path / "other", draw(20_011, seed=9), 4096)
    batches([TripleStore.open(tmp_path / "same"), stores[1]], BATCH).load_state_dict(state)  # a copy will do
    for others in (stores[:1], stores[::-1], [TripleStore.open(tmp_path / "other"), stores[1]]):
        with pytest.raises(UserError, match="the saved position is of another stores"):
            batches(others, BATCH).load_state_dict(state)
