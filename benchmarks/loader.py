"""How many shuffled triples a second come as batches, compared with other ways to read and shuffle the same numbers?

Counted are triples a second, in tensors of whole batches. This package, permuting in memory and the memory map in one
process are timed over whole epochs, with all that each epoch begins with. The others are given what they begin with:
the clock starts when every worker has given its first batch, and stops at the end of the data or after
`--peer-seconds`. Each is used as its documentation advises. Those that store a triple as a record get `--peer-triples`
of the triples: they would not come through more in the time. The second column says what is shuffled: whole records of
neighboring triples are far cheaper to shuffle, but triples within a record are not shuffled.

Two rows have nothing in the system's cache, as where there are more triples than memory: a store's files are dropped
from it before an epoch, in which each is read once; a memory map's before each batch, which may need all of them, and
which then reads no more than the pages it needs (`MADV_RANDOM`).

mosaicml-streaming needs an older NumPy than this package's tests do. An environment that has it:

    python -m venv bench && bench/bin/pip install -e '.[bench,fast]' mosaicml-streaming
    bench/bin/python -m benchmarks.loader
"""

import itertools
import mmap
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autosparse.command import run
from autosparse.errors import UserError
from autosparse.store import TripleLoader, TripleStore
from benchmarks.common import forget, goal, heading, installed, random_triples, row, scratch, table, write_store

KINDS: dict[str, Any] = {"theta": np.float32, "grad": np.float32, "survival": np.uint8}
PIP = {"streaming": "mosaicml-streaming"}  # where the package is not called like the module
_BUFFER = 10_000  # samples that WebDataset shuffles among


@dataclass(frozen=True)
class Arguments:
    """Time shuffled batches of random triples."""

    triples: int = 100_000_000
    """How many there are."""
    batch_sizes: tuple[int, ...] = (1024, 65536)
    """Triples in a batch; a table each, and goals for each."""
    memory: str = "512MB"
    """For mixing, as in a fit."""
    repeats: int = 3
    """Epochs of those that are timed over whole ones; the median counts."""
    workers: int = 2
    """Processes of the peers that have some."""
    record: int = 1024
    """Triples in a record, where records are shuffled."""
    peer_triples: int = 1_000_000
    """How many of the triples the peers get that store each as a record."""
    peer_seconds: float = 10.0
    """How long each of the other peers is timed."""
    folder: Path | None = None
    """Where to write (a folder of its own is made in it, and deleted); where temporary files go, if not given."""


@dataclass(frozen=True)
class Peer:
    """A way to shuffled batches.

    Attributes:
        name: name in the tables.
        order: unit that it shuffles.
        kind: `ours`, `memory`, `triples` or `records` by what the goals are about; `disk` with nothing cached.
        batches: starts an epoch of batches of so many triples, out of its folder.
        data: its folder; peers may share one.
        prepare: writes what is in the folder; the raw files are in `raw` next to it.
        module: that it needs.
        round: batches that are prepared at once, of which the first round starts the clock; 0 to time whole epochs.
    """

    name: str
    order: str
    kind: str
    batches: Callable[[Path, int], Iterable[object]]
    data: str = "raw"
    prepare: Callable[[Path], object] = lambda folder: None
    module: str = ""
    round: int = 0


def ours(a: Arguments) -> Iterator[Peer]:
    """The training part of a store; what the threads read ahead is read within the time."""

    def batches(threads: int, cold: bool, folder: Path, size: int) -> TripleLoader:
        if cold:
            forget(folder)
        return TripleLoader([TripleStore.open(folder)], size, memory=a.memory, threads=threads)

    def prepare(folder: Path) -> None:
        write_store(folder, read(folder.parent / "raw"))

    order = "all, in shuffle buffers"
    for threads in (0, 1, 2):
        yield Peer(f"this package, {threads} threads", order, "ours", partial(batches, threads, False), "ours", prepare)
    yield Peer("this package, 2 threads, from the disk", order, "disk", partial(batches, 2, True), "ours", prepare)


def in_memory(a: Arguments) -> Iterator[Peer]:
    """Three tensors in memory, permuted as a whole and sliced: for those who have the memory twice."""

    def batches(folder: Path, size: int) -> Iterator[object]:
        columns = [torch.from_numpy(values) for values in read(folder).values()]

        def epoch() -> Iterator[object]:
            order = torch.randperm(a.triples)
            permuted = [values[order] for values in columns]
            for start in range(0, a.triples - size + 1, size):
                yield [values[start : start + size] for values in permuted]

        return epoch()

    yield Peer("permuting in memory", "all", "memory", batches)


class Mapped(Dataset[Any]):
    """Memory maps of the raw files, read a triple or, by a tensor of indices, a batch at a time."""

    def __init__(self, folder: Path, size: int, cold: bool = False) -> None:
        self.columns: list[Any] = [values[:size] for values in read(folder, "r").values()]
        self.folder, self.cold = folder, cold
        if cold:
            for values in self.columns:
                values._mmap.madvise(mmap.MADV_RANDOM)

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, Tensor):
            return [values[index].item() for values in self.columns]
        if self.cold:
            for values in self.columns:
                values._mmap.madvise(mmap.MADV_DONTNEED)
            forget(self.folder)
        return [torch.from_numpy(np.asarray(values[index.numpy()])) for values in self.columns]


@dataclass(frozen=True)
class Permutation:
    """A sampler that gives the indices of whole batches, drawn when the epoch starts."""

    size: int
    batch_size: int

    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.randperm(self.size)[: self.size // self.batch_size * self.batch_size].split(self.batch_size)


def memory_map(a: Arguments) -> Iterator[Peer]:
    """PyTorch's DataLoader over memory maps.

    A triple at a time is what its tutorial shows. A batch at a time is what its documentation has for reading in bulk:
    no automatic batching, and a sampler that gives the indices of a batch.
    """

    def each(folder: Path, size: int) -> Iterable[object]:
        samples = Mapped(folder, min(a.peer_triples, a.triples))
        return DataLoader(samples, size, shuffle=True, drop_last=True, num_workers=a.workers)

    def bulk(workers: int, cold: bool, folder: Path, size: int) -> Iterable[object]:
        order: Any = Permutation(a.triples, size)
        return DataLoader(Mapped(folder, a.triples, cold), batch_size=None, sampler=order, num_workers=workers)

    name = "DataLoader, memory map"
    yield Peer(f"{name}, a triple at a time", "all", "triples", each, round=a.workers)
    yield Peer(f"{name}, a batch at a time", "all", "triples", partial(bulk, 0, False))
    yield Peer(
        f"{name}, a batch at a time, {a.workers} workers",
        "all",
        "triples",
        partial(bulk, a.workers, False),
        round=a.workers,
    )
    yield Peer(f"{name}, a batch at a time, from the disk", "all", "disk", partial(bulk, 0, True), round=1)


def tensorstore(a: Arguments) -> Iterator[Peer]:
    """Chunks of the store in a random order, read by tensorstore, `--workers` groups of 16 ahead, each permuted whole.

    tensorstore has no loader; this is what one writes over it, and reads each chunk once an epoch as this package does.
    """

    def batches(folder: Path, size: int) -> Iterator[object]:
        spec = {name: {"driver": "zarr3", "kvstore": f"file://{folder / name}/"} for name in KINDS}
        arrays = {name: installed("tensorstore").open(spec[name], open=True, read=True).result() for name in KINDS}
        chunk = arrays["theta"].chunk_layout.read_chunk.shape[0]
        order = torch.randperm(-(-a.triples // chunk)).split(16)

        def ask(group: Tensor) -> list[list[Any]]:
            return [
                [values[k * chunk : min((k + 1) * chunk, a.triples)].read() for k in group.tolist()]
                for values in arrays.values()
            ]

        asked = list(map(ask, order[: a.workers + 1]))
        left: list[Tensor] = []
        for number in range(len(order)):
            columns = [torch.from_numpy(np.concatenate([part.result() for part in parts])) for parts in asked.pop(0)]
            asked += map(ask, order[number + a.workers + 1 : number + a.workers + 2])
            columns = [torch.cat(pair) for pair in zip(left, columns, strict=True)] if left else columns
            permutation = torch.randperm(len(columns[0]))
            columns = [values[permutation] for values in columns]
            whole = len(permutation) // size * size
            for start in range(0, whole, size):
                yield [values[start : start + size] for values in columns]
            left = [values[whole:] for values in columns]

    def cold(folder: Path, size: int) -> Iterator[object]:
        forget(folder)
        return batches(folder, size)

    name, order = "tensorstore, by chunks", "chunks, 4 million"
    yield Peer(name, order, "triples", batches, "ours", module="tensorstore")
    yield Peer(f"{name}, from the disk", order, "disk", cold, "ours", module="tensorstore")


def mosaic(a: Arguments) -> Iterator[Peer]:
    """MosaicML Streaming: MDS shards, its default shuffle, the batch size given to data set and loader alike (FAQ).

    Scalars have encodings of their own; a record of neighbours is three arrays of a static shape.
    """

    def prepare(record: int, folder: Path) -> None:
        names = {name: np.dtype(kind).name for name, kind in KINDS.items()}
        columns = names if record == 1 else {name: f"ndarray:{kind}:{record}" for name, kind in names.items()}
        with installed("streaming").MDSWriter(out=str(folder), columns=columns) as writer:
            for values in records(folder, a, record):
                writer.write(values if record > 1 else {name: value[0] for name, value in values.items()})

    def batches(record: int, folder: Path, size: int) -> Iterable[object]:
        streaming = installed("streaming")
        streaming.base.util.clean_stale_shared_memory()
        samples = streaming.StreamingDataset(local=str(folder), shuffle=True, batch_size=size // record)
        return loader_of(streaming.StreamingDataLoader, samples, size // record, a)

    for record, order, kind in ((1, "blocks of 4 million", "triples"), (a.record, "records", "records")):
        yield Peer(
            "MosaicML Streaming",
            order,
            kind,
            partial(batches, record),
            f"mosaic-{kind}",
            partial(prepare, record),
            "streaming",
            round=a.workers,
        )


def litdata(a: Arguments) -> Iterator[Peer]:
    """LitData: `optimize`, then its data set and loader; numbers with `TokensLoader`, in blocks of a fixed size.

    It has tokens of one kind, so the three numbers of a triple are float32, and a block is a triple or those of a
    record. Its default shuffle is of chunks (64 MB), of blocks of 256 samples within a chunk, and within these.
    """

    def prepare(record: int, folder: Path) -> None:
        found, size = installed("litdata"), a.triples if record > 1 else min(a.peer_triples, a.triples)
        found.optimize(
            partial(tokens, folder.parent / "raw", a.record),
            list(range(0, size - a.record + 1, a.record)),
            str(folder),
            chunk_bytes="64MB",
            num_workers=a.workers,
            item_loader=found.TokensLoader(),
            verbose=False,
        )

    def batches(record: int, folder: Path, size: int) -> Iterable[object]:
        found = installed("litdata")
        tokens = found.TokensLoader(block_size=len(KINDS) * record)
        samples = found.StreamingDataset(str(folder), item_loader=tokens, shuffle=True, drop_last=True)
        return loader_of(found.StreamingDataLoader, samples, size // record, a)

    for record, order, kind in ((1, "chunks, blocks of 256", "triples"), (a.record, "records", "records")):
        yield Peer(
            "LitData",
            order,
            kind,
            partial(batches, record),
            f"litdata-{kind}",
            partial(prepare, record),
            "litdata",
            round=a.workers,
        )


def tokens(folder: Path, count: int, start: int) -> Tensor:
    """Some triples as one row of float32."""
    columns = [
        torch.from_numpy(values[start : start + count].astype(np.float32)) for values in read(folder, "r").values()
    ]
    return torch.stack(columns, 1).flatten()


def webdataset(a: Arguments) -> Iterator[Peer]:
    """WebDataset: shuffled shards, a shuffled buffer of samples, batches made by the workers (README).

    Records of neighbours are taken apart, shuffled and batched behind the loader (FAQ), or shuffled as they are.
    """

    def prepare(record: int, folder: Path) -> None:
        folder.mkdir()
        size = a.triples if record > 1 else min(a.peer_triples, a.triples)
        shard = -(-size // record // (4 * max(a.workers, 1)))
        with installed("webdataset").ShardWriter(f"{folder}/%06d.tar", maxcount=shard, verbose=0) as writer:
            for k, values in enumerate(records(folder, a, record)):
                sample: dict[str, Any] = {f"{name}.npy": value for name, value in values.items()}
                if record == 1:
                    sample = {"triple.pyd": tuple(value.item() for value in values.values())}
                writer.write({"__key__": f"{k:09d}", **sample})

    def source(folder: Path, buffer: int) -> Any:
        urls = sorted(map(str, folder.glob("*.tar")))
        return installed("webdataset").WebDataset(urls, shardshuffle=len(urls)).shuffle(buffer).decode()

    def loader(pipeline: Any) -> Any:
        return installed("webdataset").WebLoader(pipeline, batch_size=None, num_workers=a.workers)

    def each(folder: Path, size: int) -> Iterable[object]:
        samples: Iterable[object] = loader(source(folder, _BUFFER).map(_triple).batched(size, partial=False))
        return samples

    def apart(folder: Path, size: int) -> Iterable[object]:
        whole = loader(source(folder, _BUFFER // a.record + 1).to_tuple(*(f"{name}.npy" for name in KINDS)))
        samples: Iterable[object] = whole.unbatched().shuffle(_BUFFER).batched(size, collation_fn=_stack, partial=False)
        return samples

    def whole(folder: Path, size: int) -> Iterable[object]:
        samples = source(folder, _BUFFER // 10).to_tuple(*(f"{name}.npy" for name in KINDS))
        found: Iterable[object] = loader(samples.batched(size // a.record, partial=False))
        return found

    buffer = f"a buffer of {_BUFFER:,}"
    for order, kind, batches, record in (
        (buffer, "triples", each, 1),
        (f"{buffer}, records taken apart", "triples", apart, a.record),
        ("records", "records", whole, a.record),
    ):
        yield Peer(
            "WebDataset",
            order,
            kind,
            batches,
            f"webdataset-{record}",
            partial(prepare, record),
            "webdataset",
            round=a.workers,
        )


def _triple(sample: dict[str, Any]) -> Any:
    return sample["triple.pyd"]


def _stack(samples: list[Any]) -> list[Tensor]:
    """Tensors of tuples of NumPy's scalars, which WebDataset's own collation leaves as lists."""
    return [torch.from_numpy(np.array(column)) for column in zip(*samples, strict=True)]


def loader_of(kind: Any, samples: Any, size: int, a: Arguments) -> Iterable[object]:
    """A peer's own DataLoader."""
    loader: Iterable[object] = kind(samples, batch_size=size, num_workers=a.workers, drop_last=True)
    return loader


def read(folder: Path, mode: Any = None) -> dict[str, NDArray[Any]]:
    """The raw files, in memory or, with a mode, mapped."""
    if mode is None:
        return {name: np.fromfile(folder / name, kind) for name, kind in KINDS.items()}
    return {name: np.memmap(folder / name, kind, mode) for name, kind in KINDS.items()}


def records(folder: Path, a: Arguments, record: int) -> Iterator[dict[str, NDArray[Any]]]:
    """The triples, as far as a peer gets them, in records of so many."""
    columns = read(folder.parent / "raw", "r")
    for start in range(0, (a.triples if record > 1 else min(a.peer_triples, a.triples)) - record + 1, record):
        yield {name: np.array(values[start : start + record]) for name, values in columns.items()}


def rate(peer: Peer, folder: Path, size: int, a: Arguments) -> float:
    """Triples a second: of a peer's whole epochs, or of its rounds after the first."""
    rates = []
    for _ in range(1 if peer.round else a.repeats):
        batches = iter(peer.batches(folder, size))
        for _ in range(peer.round):
            next(batches)
        start = now = time.perf_counter()
        count = 0
        for number, _ in enumerate(batches, 1):
            if number % max(peer.round, 1) == 0:
                count, now = number, time.perf_counter()
                if peer.round and now - start > a.peer_seconds:
                    break
        rates.append(count * size / max(now - start, 1e-9))
    return statistics.median(rates)


def main(a: Arguments) -> None:
    """Time and print."""
    _check(a)
    heading("zarrs", "tensorstore", "mosaicml-streaming", "litdata", "webdataset")
    kinds = (ours, in_memory, memory_map, tensorstore, mosaic, litdata, webdataset)
    peers = list(itertools.chain.from_iterable(kind(a) for kind in kinds))
    with scratch(a.folder) as folder:
        (folder / "raw").mkdir()
        for name, values in random_triples(a.triples).items():
            values.tofile(folder / "raw" / name)
        for size in a.batch_sizes:
            print(f"\nbatches of {size:,} out of {a.triples:,} triples, {a.memory} for mixing\n")
            table("loader", "shuffled", "triples/s", "the best of ours to it", right=2)
            rates: dict[str, list[tuple[float, str]]] = {}
            for peer in peers:
                if peer.module and not installed(peer.module):
                    row(f"{peer.name}: pip install {PIP.get(peer.module, peer.module)}", peer.order, "", "")
                    continue
                if not (folder / peer.data).exists():
                    peer.prepare(folder / peer.data)
                found = rate(peer, folder / peer.data, size, a)
                rates.setdefault(peer.kind, []).append((found, peer.name))
                first = rates["disk"][0] if peer.kind == "disk" else max(rates["ours"])
                row(peer.name, peer.order, f"{found:,.0f}", f"{first[0] / found:.2f}")
            _goals(size, rates)


def _check(a: Arguments) -> None:
    """Raise if a peer has no whole batches left after those that start the clock."""
    least = 3 * max(a.workers, 1) * max(a.batch_sizes)
    if min(a.triples, a.peer_triples) < least:
        raise UserError(
            f"--triples and --peer-triples must be at least {least:,} for batches of {max(a.batch_sizes):,}"
        )
    if a.record < 2 or any(size % a.record for size in a.batch_sizes):
        raise UserError(f"--record must be 2 or more and divide --batch-sizes, got {a.record}")


def _goals(size: int, rates: dict[str, list[tuple[float, str]]]) -> None:
    """Whether this package is as fast as it should be in batches of that size."""
    print()
    best, memory, (peer, name) = max(rates["ours"])[0], rates["memory"][0][0], max(rates["triples"])
    (ours_cold, _), (cold, _), *others = rates["disk"]
    goal(f"30 million triples a second in batches of {size:,}: {best / 1e6:.1f}", best >= 30e6)
    goal(f"half of permuting in memory: {best / memory:.2f}", best >= memory / 2)
    goal(f"20 times the best peer that shuffles triples ({name}): {best / peer:.1f}", best >= 20 * peer)
    every = max(rates["memory"] + rates["triples"])
    goal(f"1.5 times every peer that shuffles triples ({every[1]}): {best / every[0]:.2f}", best >= 1.5 * every[0])
    for other, called in others:
        goal(f"where nothing is cached, above {called}: {ours_cold / other:.2f}", ours_cold > other)
    goal(f"20 times the memory map where nothing is cached: {ours_cold / cold:.1f}", ours_cold >= 20 * cold)


if __name__ == "__main__":
    run(Arguments, main)
