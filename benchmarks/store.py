"""How fast are triples written, durably, and read, compared with raw files and other stores of arrays?

Every peer stores the same values: theta and grad, float32, survival, uint8, and the masks of all iterations, a bit
each; a gigabyte counts these bytes, whatever lies on the disk. Theta, grad and survival are read, 9 bytes a triple.
Writing ends when the peer says that the data are on the disk, and reading begins with opening. All take turns,
`--repeats` times, so that a slow moment of the machine hits all; the median counts.
"""

import os
import shutil
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from autosparse.command import run
from autosparse.pruning import Mask
from autosparse.store import TripleStore, TripleWriter
from benchmarks.common import (
    forget,
    goal,
    heading,
    installed,
    layout_of,
    row,
    scratch,
    seconds,
    table,
)

Arrays = dict[str, NDArray[Any]]
NAMES = ("theta", "grad", "survival")
_CHUNK = 1 << 18  # elements, as in a store of triples
_PROMISES = ("crc32c a chunk", "files and folders", "shard, store")
_SCAN, _WHOLE, _RAW_READ = "this package, scan", "this package, whole arrays", "raw files, np.fromfile"


@dataclass(frozen=True)
class Arguments:
    """Write and read random triples, each peer several times."""

    triples: int = 100_000_000
    """How many."""
    iterations: int = 20
    """N, how many masks the run has."""
    repeats: int = 5
    """Rounds, in each of which every peer writes, reads, and reads again from the disk; the medians count."""
    folder: Path | None = None
    """Where to write (a folder of its own is made in it, and deleted); where temporary files go, if not given."""


@dataclass(frozen=True)
class Peer:
    """One way to store triples.

    Attributes:
        name: in the tables.
        write: the arrays into a folder that is not there yet; the data are durable when it returns.
        reads: ways to read theta, grad and survival, by their names in the tables.
        guarantees: what has a checksum, what is synced to the disk, and what appears whole or not at all.
        pip: what to install, where it is not.
        names: of the arrays that it stores.
    """

    name: str
    write: Callable[[Path, Arrays], object]
    reads: dict[str, Callable[[Path], object]]
    guarantees: tuple[str, str, str]
    pip: str = ""
    names: tuple[str, ...] = (*NAMES, "alive")


def run_of(triples: int, iterations: int) -> Arrays:
    """What a run stores: theta and grad, normal; survival, every count as often; the masks it is of, packed."""
    generator = np.random.Generator(np.random.PCG64(0))
    theta, grad = (generator.standard_normal(triples, np.float32) for _ in range(2))
    survival = generator.integers(0, iterations + 1, triples, np.uint8)
    rows = [np.packbits(survival >= i, bitorder="little") for i in range(1, iterations + 1)]
    return {"theta": theta, "grad": grad, "survival": survival, "alive": np.stack(rows)}


def ours(masks: Sequence[Mask]) -> Peer:
    """A store of the run, mask after mask as an IRP commits them, each packed on the way."""

    def write(folder: Path, arrays: Arrays) -> None:
        writer = TripleWriter.open(folder, layout_of(len(arrays["theta"])), len(masks), {})
        writer.commit_features(*(torch.from_numpy(arrays[name]) for name in ("theta", "grad")))
        for i, mask in enumerate(masks, 1):
            writer.commit_alive(i, mask)
        writer.finish()

    def scan(folder: Path) -> None:
        for _ in TripleStore.open(folder).scan(*NAMES):
            pass

    def whole(folder: Path) -> None:
        store = TripleStore.open(folder)
        store.theta(), store.grad(), store.survival()

    def by_zarr(folder: Path, **pipeline: object) -> None:
        with zarr.config.set({f"codec_pipeline.{key}": value for key, value in pipeline.items()}):
            group = zarr.open_group(folder, mode="r")
            for name in NAMES:
                np.asarray(group[name])

    reads: dict[str, Callable[[Path], object]] = {_SCAN: scan, _WHOLE: whole, "the same store, zarr-python": by_zarr}
    if installed("zarrs"):
        reads["the same store, zarrs"] = partial(by_zarr, path="zarrs.ZarrsCodecPipeline", strict=True)
    return Peer("this package", write, reads, _PROMISES)


def features() -> Peer:
    """The most of a store: theta and grad alone, without the masks and their sum."""

    def write(folder: Path, arrays: Arrays) -> None:
        writer = TripleWriter.open(folder, layout_of(len(arrays["theta"])), 1, {})
        writer.commit_features(*(torch.from_numpy(arrays[name]) for name in ("theta", "grad")))

    return Peer("this package, theta and grad alone", write, {}, _PROMISES, names=("theta", "grad"))


def raw() -> Peer:
    """A plain file an array and one a mask: what the disk and the system's calls allow."""

    def write(folder: Path, arrays: Arrays) -> None:
        folder.mkdir()
        masks = {f"alive{i}": row for i, row in enumerate(arrays["alive"])}
        for name, values in ({name: arrays[name] for name in NAMES} | masks).items():
            with open(folder / name, "wb") as file:
                values.tofile(file)
                file.flush()
                os.fsync(file.fileno())

    def read(folder: Path) -> None:
        for name, kind in zip(NAMES, (np.float32, np.float32, np.uint8), strict=True):
            np.fromfile(folder / name, kind)

    return Peer("raw files", write, {_RAW_READ: read}, ("none", "files", "nothing"))


def tensorstore() -> Peer:
    """The arrays of a store of triples, byte for byte the same metadata, filled by tensorstore.

    As its reference says: whole shards at a time, all asked for at once and then awaited, with a promise that the
    source stays as it is, which saves a copy. The file driver's `file_io_sync` is true by default: it syncs each shard
    and its folder.
    """

    def open_array(folder: Path, name: str) -> Any:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / name)}}
        return installed("tensorstore").open(spec, open=True).result()

    def write(folder: Path, arrays: Arrays) -> None:
        TripleWriter.open(folder, layout_of(len(arrays["theta"])), len(arrays["alive"]), {})
        futures = [
            open_array(folder, name).write(values, can_reference_source_data_indefinitely=True)
            for name, values in arrays.items()
        ]
        for future in futures:
            future.result()

    def read(folder: Path) -> None:
        for future in [open_array(folder, name).read() for name in NAMES]:
            future.result()

    reads: dict[str, Callable[[Path], object]] = {"tensorstore, zarr3": read}
    return Peer("tensorstore, zarr3", write, reads, ("crc32c a chunk", "files and folders", "shard"), "tensorstore")


def h5py() -> Peer:
    """One HDF5 file with the same chunks and fletcher32; a chunk cache that holds a few, as its documentation asks."""

    def write(folder: Path, arrays: Arrays) -> None:
        folder.mkdir()
        with installed("h5py").File(folder / "triples.h5", "w", rdcc_nbytes=1 << 24) as file:
            for name, values in arrays.items():
                chunk = (*[1] * (values.ndim - 1), min(_CHUNK, values.shape[-1]))
                file.create_dataset(name, data=values, chunks=chunk, fletcher32=True)
            file.flush()
            os.fsync(file.id.get_vfd_handle())

    def read(folder: Path) -> None:
        with installed("h5py").File(folder / "triples.h5", rdcc_nbytes=1 << 24) as file:
            for name in NAMES:
                file[name][:]

    reads: dict[str, Callable[[Path], object]] = {"h5py, fletcher32": read}
    return Peer("h5py, fletcher32", write, reads, ("fletcher32 a chunk", "file", "nothing"), "h5py")


def main(a: Arguments) -> None:
    """Time and print."""
    heading("zarrs", "tensorstore", "h5py")
    arrays = run_of(a.triples, a.iterations)
    layout = layout_of(a.triples)
    masks = [Mask(layout, torch.from_numpy(arrays["survival"] >= i)) for i in range(1, a.iterations + 1)]
    peers = [raw(), ours(masks), features(), tensorstore(), h5py()]
    there = [peer for peer in peers if not peer.pip or installed(peer.pip)]
    writing, warm, cold = (defaultdict[str, list[float]](list) for _ in range(3))
    kept = 0.0
    with scratch(a.folder) as folder:
        for _ in range(a.repeats):
            for peer in there:
                target = folder / "peer"
                writing[peer.name].append(seconds(partial(peer.write, target, arrays)))
                for name, read in peer.reads.items():
                    read(target)  # so that the memory it takes is there
                    warm[name].append(seconds(partial(read, target)))
                for name, read in peer.reads.items():
                    kept = max(kept, forget(target))
                    cold[name].append(seconds(partial(read, target)))
                shutil.rmtree(target)
    stored = {peer.name: sum(arrays[name].nbytes for name in peer.names) / 1e9 for peer in peers}
    rates = [{name: stored[name] / statistics.median(times) for name, times in writing.items()}]
    for found in (warm, cold):
        rates.append({name: a.triples * 9 / 1e9 / statistics.median(times) for name, times in found.items()})
    whole = stored["raw files"]
    print(f"\n{a.triples:,} triples, {a.iterations} masks, {whole:.2f} GB; median of {a.repeats}\n")
    table("writing", "checksum", "synced", "atomic", "GB/s", "of raw", right=4)
    for peer in peers:
        if peer in there:
            rate = rates[0][peer.name]
            row(peer.name, *peer.guarantees, f"{rate:.2f}", f"{rate / rates[0]['raw files']:.2f}")
        else:
            row(f"{peer.name}: pip install {peer.pip}", *peer.guarantees, "", "")
    print()
    table("reading", "from the cache, GB/s", "of raw", "from the disk, GB/s", "of raw")
    for name in rates[1]:
        cells = [(found[name], found[name] / found[_RAW_READ]) for found in rates[1:]]
        row(name, *(f"{value:.2f}" for pair in cells for value in pair))
    if kept > 0.01:
        print(
            f"\nThe system kept up to {kept:.0%} of the files in its cache: what is called the disk is not only that."
        )
    _goals(rates)


def _goals(rates: list[dict[str, float]]) -> None:
    """Whether writing and reading are as fast as they should be."""
    print()
    written, warm, cold = rates
    share = written["this package"] / written["raw files"]
    goal(f"writing at 0.8 of raw files: {share:.2f}", share >= 0.8)
    for where, found, aim in (("cache", warm, 0.8), ("disk", cold, 1.0)):
        share = found[_SCAN] / found[_RAW_READ]
        goal(f"scanning from the {where} at {aim} of raw files: {share:.2f}", share >= aim)
    for name in [name for name in warm if name not in (_SCAN, _WHOLE, _RAW_READ)]:
        if name in written:
            share = written["this package"] / written[name]
            goal(f"writing faster than {name}: {share:.2f}", share > 1)
        for where, found in (("cache", warm), ("disk", cold)):
            share = found[_SCAN] / found[name]
            goal(f"scanning from the {where} faster than {name}: {share:.2f}", share > 1)


if __name__ == "__main__":
    run(Arguments, main)
