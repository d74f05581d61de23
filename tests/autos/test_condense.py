"""Cells of triples beside a plain calculation, by one process and by two, and a fit to them."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from autosparse.autos import Features, FitConfig, fit, validate
from autosparse.autos.condense import Cells, condense
from autosparse.autos.fit import Encoder, number_of_steps
from autosparse.autos.sampler import CellDraws
from autosparse.errors import UserError
from autosparse.store import Counters, Triples, TripleStore, sample
from autosparse.training import Checkpoint

CONFIG = FitConfig(epochs=3, batch_size=512, condense=4096)

SCRIPT = """
import sys
from pathlib import Path
import torch
from autosparse.autos import Features, FitConfig, fit
from autosparse.autos.condense import condense
from autosparse.autos.fit import Encoder
from autosparse.cluster import process
from autosparse.store import TripleStore

accelerator = process.start(1)
stores, folder = [TripleStore.open(sys.argv[1])], Path(sys.argv[2])
cells = condense(stores, Encoder(stores, Features(), "share", torch.device("cpu")), 4096, accelerator)
torch.save(vars(cells), folder / f"cells-{accelerator.process_index}.pt")
autos = fit(stores, FitConfig(epochs=2, batch_size=512, condense=4096), accelerator)
torch.save(autos.card["losses"], folder / f"losses-{accelerator.process_index}.pt")
process.finish(accelerator)
"""


@pytest.fixture(scope="module")
def store(irp_run: Path) -> TripleStore:
    return TripleStore.open(irp_run)


def encoder(store: TripleStore, inputs: str = "both") -> Encoder:
    return Encoder([store, store], Features(inputs=inputs), "share", torch.device("cpu"))


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("inputs", ["param", "grad"])
def test_cells_along_one_input_are_runs_of_the_sorted_triples(
    store: TripleStore, accelerator: Accelerator, inputs: str, seed: int
) -> None:
    cells = condense([store], encoder(store, inputs), 300, accelerator, seed=seed)
    values, labels = encoder(store, inputs)(sample(store, len(store), seed, "train"))
    order = values[:, 0].argsort()
    assert 280 <= len(cells) <= 300
    assert cells.counts.sum() == len(order)
    assert cells.counts.std() < 0.2 * cells.counts.mean()  # the grid is laid by quantiles
    starts = np.concatenate([[0], cells.counts.long().cumsum(0)[:-1]])
    for found, column in ((cells.inputs[:, 0], values[:, 0]), (cells.labels, labels)):
        plain = np.add.reduceat(column[order].double().numpy(), starts) / cells.counts.numpy()
        np.testing.assert_allclose(found.numpy(), plain, rtol=1e-6, atol=1e-7)


def test_cells_over_both_inputs_are_those_of_the_grid(store: TripleStore, accelerator: Accelerator) -> None:
    cells = condense([store], encoder(store), 250, accelerator)
    values, labels = encoder(store)(sample(store, len(store), 0, "train"))
    edges = list[Tensor]()
    for k, inputs in enumerate(("param", "grad")):
        rows = condense([store], encoder(store, inputs), 15, accelerator)
        bounds = values[:, k].sort().values[rows.counts.long().cumsum(0) - 1]  # the largest value of each
        edges.append(torch.bucketize(values[:, k].contiguous(), bounds[:-1]))
    triples = pd.DataFrame({"cell": 15 * edges[0] + edges[1], "theta": values[:, 0], "grad": values[:, 1], "y": labels})
    plain = triples.astype(np.float64).groupby("cell").agg(["mean", "size"])
    assert len(cells) == len(plain) <= 225
    assert np.array_equal(cells.counts, plain["y", "size"])
    for found, name in ((cells.inputs[:, 0], "theta"), (cells.inputs[:, 1], "grad"), (cells.labels, "y")):
        np.testing.assert_allclose(found.numpy(), plain[name, "mean"], rtol=1e-5, atol=1e-7)


def test_nothing_that_is_held_out_is_looked_at(store: TripleStore, accelerator: Accelerator) -> None:
    encode, seen = encoder(store), list[Tensor]()

    def spy(triples: Triples) -> tuple[Tensor, Tensor]:
        seen.append(triples.theta)
        return encode(triples)

    condense([store], spy, 4096, accelerator, seed=5)
    held_out = sample(store, len(store), 5, "held-out").theta
    train = sample(store, len(store), 5, "train").theta
    assert not set(torch.cat(seen).tolist()) & set(held_out.tolist()) - set(train.tolist())


def test_a_store_counts_by_its_weight(store: TripleStore, accelerator: Accelerator) -> None:
    once = condense([store], encoder(store), 4096, accelerator)
    both = condense([store, store], encoder(store), 4096, accelerator, weights=(1.0, 2.5))
    assert both.counts.sum() == pytest.approx(3.5 * once.counts.sum().item())
    for found, plain in ((both.labels, once.labels), (both.inputs[:, 1], once.inputs[:, 1])):
        assert np.average(found, weights=both.counts) == pytest.approx(np.average(plain, weights=once.counts), abs=1e-6)


def test_an_input_that_never_changes_is_one_row(store: TripleStore, accelerator: Accelerator) -> None:
    encode = encoder(store)

    def constant(triples: Triples) -> tuple[Tensor, Tensor]:
        inputs, labels = encode(triples)
        return torch.stack([inputs[:, 0], torch.full_like(labels, 0.25)], 1), labels

    cells = condense([store], constant, 400, accelerator)
    assert len(cells) == 20
    assert (cells.inputs[:, 1] == 0.25).all()
    assert cells.inputs.isfinite().all()


def draws(counts: Tensor, batch: int, seed: int, *part: int) -> Tensor:
    cells = Cells(torch.zeros(len(counts), 2), torch.zeros(len(counts)), counts)
    batches = CellDraws(cells, 4 * 512, 512, seed, *part)
    batches.load_state_dict(batches.state_dict() | {"batch": batch})
    return next(iter(batches))


def test_cells_are_drawn_as_often_as_they_have_triples() -> None:
    counts = torch.rand(100, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 3
    for batch in range(4):
        found = torch.bincount(draws(counts, batch, 0), minlength=100)
        assert ((found - 512 * counts / counts.sum()).abs() < 2).all()
    assert not torch.equal(draws(counts, 0, 0), draws(counts, 1, 0))
    assert not torch.equal(draws(counts, 0, 0), draws(counts, 0, 1))
    assert torch.equal(draws(counts, 2, 0), draws(counts, 2, 0))
    parts = [draws(counts, 2, 0, rank, 4) for rank in range(4)]
    assert torch.equal(torch.stack(parts, 1).flatten(), draws(counts, 2, 0))


def test_a_condensed_fit_is_as_good(store: TripleStore, accelerator: Accelerator) -> None:
    full, condensed = (
        validate(fit([store], how, accelerator), store)
        for how in (replace(CONFIG, condense=0, epochs=1), replace(CONFIG, condense=16384, epochs=2))
    )
    assert condensed["mse"] == pytest.approx(full["mse"], rel=0.1)
    assert condensed["spearman"] > 0.9 * full["spearman"]


def counting(calls: list[int]) -> Callable[[int, Counters], object]:
    return lambda steps, counters: calls.append(steps)


def test_a_stopped_fit_ends_with_the_same_bits(store: TripleStore, accelerator: Accelerator, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    calls = list[int]()

    def die(steps: int, counters: Counters) -> None:
        calls.append(steps)
        if len(calls) > 10:
            raise StoppedError

    whole = fit([store], CONFIG, accelerator)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(StoppedError):
        fit([store], CONFIG, accelerator, resume=Checkpoint(path, "fit", 0), progress=die)
    with pytest.raises(UserError, match="the saved position is of another number of cells: 4096 there, 1024 here"):
        fit([store], replace(CONFIG, condense=1024), accelerator, resume=Checkpoint(path, "fit", 0))
    done = list[int]()
    resumed = fit([store], CONFIG, accelerator, resume=Checkpoint(path, "fit", 60), progress=counting(done))
    assert done == [10] + [1] * 14
    expected = whole.network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.network.state_dict().items())
    assert resumed.card == whole.card
    assert whole.card["fit"]["condense"] == 4096


def test_steps_do_not_depend_on_the_number_of_triples(store: TripleStore, accelerator: Accelerator) -> None:
    for stores in ([store], [store, store]):
        assert number_of_steps(stores, CONFIG, accelerator) == 3 * 4096 // 512
        assert number_of_steps(stores, replace(CONFIG, max_steps=7), accelerator) == 7
    small = replace(CONFIG, condense=16, epochs=2)  # less than a batch
    calls = list[int]()
    fit([store], small, accelerator, progress=counting(calls))
    assert calls == [1] * number_of_steps([store], small, accelerator) == [1, 1]


def test_what_cannot_be_is_refused(store: TripleStore) -> None:
    for wrong in (-1, 15):
        with pytest.raises(UserError, match=f"--condense must be 0 or at least 16, got {wrong}"):
            FitConfig(condense=wrong)
    with pytest.raises(UserError, match="a batch of 512 cannot be cut over 3 processes"):
        draws(torch.ones(9, dtype=torch.float64), 0, 0, 0, 3)


def test_two_processes_make_the_same_cells(irp_run: Path, accelerator: Accelerator, tmp_path: Path) -> None:
    processes = []
    for rank in range(2):
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
        group["MASTER_PORT"] = 21000 + os.getpid() % 9000
        environment = os.environ | {key: str(value) for key, value in group.items()}
        command = [sys.executable, "-c", SCRIPT, str(irp_run), str(tmp_path)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    store = TripleStore.open(irp_run)
    alone = condense([store], encoder(store), 4096, accelerator)
    one, two = (Cells(**torch.load(tmp_path / f"cells-{rank}.pt")) for rank in range(2))
    for name, value in vars(alone).items():
        assert torch.equal(getattr(one, name), getattr(two, name))
        torch.testing.assert_close(getattr(one, name), value, rtol=1e-6, atol=1e-7)
    first, second = (torch.load(tmp_path / f"losses-{rank}.pt") for rank in range(2))
    assert first == second
    assert 0 < first[1] < first[0]
