"""A run on many nodes: what it writes, what its main process does at each commit, and what breaks first.

A model, and one measured point. The point: `--writers` processes write a store together, and one alone writes the same;
the bytes must be equal. The model: every rank owns one full shard, so a run of 4,096 ranks has 69 billion parameters; a
commit costs the main process the files that it looks for, the entries of the ledger, and what the ranks tell it. Its
constants are measured here, on a local disk; `--stat-ms` takes the place of one where the file system is another.
"""

import json
import os
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist

from autosparse.command import run
from autosparse.distributed import gather, group
from autosparse.pruning import Mask
from autosparse.sizes import format_size
from autosparse.store import TripleStore, TripleWriter
from autosparse.store.schema import LEDGER, Grid, Ledger, shard_entry, shard_path
from autosparse.store.storage import Folder
from benchmarks.common import goal, heading, layout_of, median_seconds, random_triples, row, scratch, table

_SHARD = 1 << 24  # parameters, as in any store that large
_CHUNKS = 64  # of a shard


@dataclass(frozen=True)
class Arguments:
    """Write a store by many processes, measure what a commit costs, and compute the same for more."""

    ranks: tuple[int, ...] = (8, 64, 512, 4096)
    """Processes in the model, each with a shard of 2^24 parameters."""
    iterations: int = 20
    """N, masks in the model's runs."""
    writers: int = 64
    """Processes that write one store here."""
    shard: int = 1 << 18
    """Parameters in a shard of that store, one a process."""
    masks: int = 4
    """Masks of that store."""
    files: int = 10_000
    """Files that are looked for, and entries of the ledger, to measure what one costs."""
    stat_ms: float | None = None
    """Milliseconds to look for one file, in place of what is measured: 1 is common on a parallel file system."""
    patience: float = 60.0
    """Seconds that a commit may keep all ranks waiting."""
    folder: Path | None = None
    """Where to write (a folder of its own is made in it, and deleted); where temporary files go, if not given."""


@dataclass(frozen=True)
class Constants:
    """What the main process does once a file, an entry or a rank, in seconds; and bytes of an entry."""

    place: float
    stat: float
    entry: float
    entry_bytes: float
    rank: float


@dataclass(frozen=True)
class Modelled:
    """A run on so many ranks; the commit is the last of a mask, which is the dearest."""

    ranks: int
    parameters: int
    bytes: int
    files: int
    operations: int
    ledger: int
    looking: float
    writing: float
    telling: float

    @property
    def commit(self) -> float:
        """Seconds that the ranks wait for the main process."""
        return self.looking + self.writing + self.telling


def write(folder: Path, a: Arguments, writers: int) -> None:
    """A whole store by this process's part of the world."""
    layout = layout_of(a.writers * a.shard)
    arrays = random_triples(layout.size)
    kept = torch.from_numpy(arrays["survival"].view(np.bool_))
    writer = TripleWriter.open(folder, layout, a.masks, {}, group(), a.shard)
    seconds = time.perf_counter()
    writer.commit_features(*(torch.from_numpy(arrays[name]) for name in ("theta", "grad")))
    for i in range(1, a.masks + 1):
        writer.commit_alive(i, Mask(layout, kept))
    writer.finish()
    seconds = time.perf_counter() - seconds
    told = median_seconds(partial(gather, {shard_path("theta", 0): _entry()}), 10)
    if group().is_main:
        folder.with_suffix(".json").write_text(json.dumps({"seconds": seconds, "rank": told / writers}))


def _process(folder: Path, a: Arguments, rank: int) -> None:
    torch.set_num_threads(1)
    rendezvous = dist.FileStore(str(folder.with_suffix(".rendezvous")), a.writers)
    dist.init_process_group("gloo", store=rendezvous, rank=rank, world_size=a.writers)
    write(folder, a, a.writers)
    dist.barrier()
    dist.destroy_process_group()


def together(folder: Path, a: Arguments) -> dict[str, float]:
    """Many processes write one store; seconds between the first commit and the marker, and of a rank in a gather."""
    context = get_context("fork")  # sixty-four imports of PyTorch would take minutes
    processes = [context.Process(target=_process, args=(folder, a, rank)) for rank in range(a.writers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit(f"a writer ended with {max(process.exitcode or 0 for process in processes)}")
    found: dict[str, float] = json.loads(folder.with_suffix(".json").read_text())
    return found


def constants(folder: Path, a: Arguments, rank: float) -> Constants:
    """What one file and one entry cost here."""
    storage = Folder(folder / "constants")
    names = [shard_path("theta", k) for k in range(a.files)]
    content = [memoryview(b"\0" * 4096)]
    start, few = time.perf_counter(), names[:200]
    for name in few:
        storage.put(name, content)
    placed = (time.perf_counter() - start) / len(few)
    for name in names[200:]:
        (storage.path / name).touch()
    stat = median_seconds(storage.sizes, 3) / a.files
    ledger = Ledger({name: _entry() for name in names}, [1.0])

    def commit() -> None:
        ledger.write(storage)
        Ledger.read(storage)

    seconds = median_seconds(commit, 3) / a.files
    size = (storage.path / LEDGER).stat().st_size / a.files
    return Constants(placed, a.stat_ms / 1000 if a.stat_ms is not None else stat, seconds, size, rank)


def _entry() -> Any:
    """Return the ledger entry of a full shard of floats."""
    windows = np.zeros(4, np.float32)
    return {
        **shard_entry(_SHARD * 4, range(1 << 31, (1 << 31) + _CHUNKS), windows, squares=False),
        "squares": [1.0] * 4,
    }


def model(ranks: int, iterations: int, c: Constants) -> Modelled:
    """A run on so many ranks, each with a shard of its own."""
    parameters = ranks * _SHARD
    assert Grid.of(parameters).shards == ranks or ranks < 8  # small stores have smaller shards
    files = ranks * (3 + iterations)
    before = files - ranks  # at the last mask all is there but survival
    return Modelled(
        ranks=ranks,
        parameters=parameters,
        bytes=parameters * 9 + iterations * parameters // 8,
        files=files,
        operations=before + ranks * 4,  # a look at each, and create, link, unlink and sync of the new ones
        ledger=int(files * c.entry_bytes),
        looking=before * c.stat,
        writing=before * c.entry,
        telling=ranks * c.rank,
    )


def main(a: Arguments) -> None:
    """Measure, compute and print."""
    heading()
    with scratch(a.folder) as folder:
        many = together(folder / "many", a)
        write(folder / "one", a, 1)
        one = json.loads((folder / "one.json").read_text())
        size = a.writers * a.shard
        print(f"\na store of {size:,} parameters in {a.writers} shards, {a.masks} masks, theta to marker\n")
        table("written by", "seconds", "commits a second")
        for name, seconds in ((f"{a.writers} processes", many["seconds"]), ("1 process", one["seconds"])):
            row(name, f"{seconds:.2f}", f"{(a.masks + 2) / seconds:.2f}")
        print()
        prints = {TripleStore.open(folder / name).fingerprint for name in ("many", "one")}
        goal("both wrote the same bytes", len(prints) == 1)
        c = constants(folder, a, many["rank"])
    print(f"\nmeasured on this machine of {os.cpu_count()} threads\n")
    table("of the main process, or of a rank", "")
    row("place a small file, durably", f"{1e3 * c.place:.2f} ms")
    row("look for a file" + (" (given)" if a.stat_ms is not None else ""), f"{1e6 * c.stat:.1f} µs")
    row("an entry of the ledger, written and read", f"{1e6 * c.entry:.1f} µs")
    row("its size", f"{c.entry_bytes:.0f} B")
    row("a rank in a gather", f"{1e3 * c.rank:.2f} ms")
    rows = [model(ranks, a.iterations, c) for ranks in a.ranks]
    print(f"\nmodel: a shard of {_SHARD:,} parameters per rank, N = {a.iterations}\n")
    table(
        "ranks",
        "parameters",
        "data",
        "files",
        "metadata operations a commit",
        "ledger",
        "a commit, s",
        "most of it",
        right=0,
    )
    for found in rows:
        row(
            f"{found.ranks:,}",
            f"{found.parameters / 1e9:,.1f} billion",
            format_size(found.bytes),
            f"{found.files:,}",
            f"{found.operations:,}",
            format_size(found.ledger),
            f"{found.commit:.2f}",
            _most(found),
        )
    last = rows[-1]
    limit = int(last.ranks * a.patience / last.commit)  # all parts grow with the ranks
    print(f"\nFrom about {limit:,} ranks on a commit keeps all of them for more than {a.patience:g} s: {_most(last)}.")
    read = format_size(last.ledger * last.ranks)
    print(f"When {last.ranks:,} ranks open the finished store, each reads the ledger: {read} in all.")


def _most(found: Modelled) -> str:
    parts = {"looking for files": found.looking, "the ledger": found.writing, "the gather": found.telling}
    name = max(parts, key=lambda part: parts[part])
    return f"{name}, {parts[name] / found.commit:.0%}"


if __name__ == "__main__":
    run(Arguments, main)
