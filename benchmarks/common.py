"""Heads, measurements and data folders of all benchmarks."""

import contextlib
import ctypes
import datetime
import importlib
import importlib.metadata
import mmap
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from autosparse.cluster import Resources, launch_graph
from autosparse.cluster.records import versions
from autosparse.page import Document
from autosparse.pruning import Layer, Layout, Mask
from autosparse.store import TripleWriter
from autosparse.study import find_scale, make_graph
from autosparse.study.parts import Part
from autosparse.study.scale import Scale
from autosparse.tasks import Images
from autosparse.tasks.arrays import ImageArrays
from autosparse.tasks.base import Split
from autosparse.tasks.image_set import ImageSet, image_set


@dataclass(frozen=True, kw_only=True)
class Noise(Images):
    """Images of noise, 3 x 32 x 32, in ten classes."""

    count: int
    """Training images; ten more to test."""

    def dataset(self, split: Split) -> ImageSet | None:
        x = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (self.count + 10, 3, 32, 32), np.uint8)
        y = np.arange(self.count + 10) % 10
        return image_set(ImageArrays(x[:-10], y[:-10], x[-10:], y[-10:]), split, 0.0)


def heading(*peers: str) -> None:
    """Print command, date, hardware and versions, those of the peers that are installed among them."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    shown = {name: versions()[name] for name in ("python", "torch", "zarr", "accelerate")}
    for name in peers:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            shown[name] = importlib.metadata.version(name)
    name = sys.argv[0].rpartition("/")[2].removesuffix(".py")
    print(f"command   python -m benchmarks.{' '.join([name, *sys.argv[1:]])}")
    print(f"date      {datetime.date.today().isoformat()}")
    print(f"hardware  {_cpu()}, {torch.get_num_threads()} threads, {gpu}")
    print(f"versions  {', '.join(f'{package} {version}' for package, version in shown.items())}", flush=True)


@dataclass(frozen=True, kw_only=True)
class StudyArguments:
    """Options of the benchmarks that train runs and report on them."""

    scale: Literal["full", "small", "smoke"] = "small"
    """full: for GPUs; small: on two cores; smoke: a trial on digits."""
    output: Path = Path("runs")
    """Folder of the runs; the report is written to OUTPUT/TITLE."""


def report(arguments: StudyArguments, title: str, make: Callable[[Scale], list[Part]]) -> None:
    """Run the jobs of a study on this machine, resuming those that were interrupted, and write its report."""
    heading("scikit-learn")
    parts = make(find_scale("lookahead", arguments.scale, arguments.output))
    jobs = [job for part in parts for job in part.jobs()]
    launch_graph(make_graph(jobs), Resources(cluster="local", wait=True), arguments.output)
    document = Document(arguments.output / title.lower().replace(" ", "-"), title)
    for part in parts:
        part.write(document)
    print(document.write())


def table(*columns: str, right: int = 1) -> None:
    """Print the head of a table, all but the first few columns aligned to the right."""
    row(*columns)
    row(*("---" if k < right else "---:" for k in range(len(columns))))


def row(*cells: str) -> None:
    """Print a row of a table."""
    print("|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|", flush=True)


def goal(text: str, met: bool) -> None:
    """Print a goal and whether the numbers above meet it."""
    print(f"- {text}: {'met' if met else 'missed'}", flush=True)


def installed(module: str) -> Any:
    """A peer's module, or None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def median_seconds(action: Callable[[], object], repeats: int) -> float:
    """Median wall time of an action."""
    return statistics.median(seconds(action) for _ in range(repeats))


def seconds(action: Callable[[], object]) -> float:
    """Wall time of an action."""
    start = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory() -> float:
    """The largest resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def extra_memory(action: Callable[[], object], output: int = 0) -> float:
    """Peak resident memory of an action beyond what was resident before and its `output` in bytes, MiB."""
    before = resident_memory()
    return peak_during(action) - before - output / 2**20


def resident_memory() -> float:
    """Resident memory of this process, MiB."""
    return _status("VmRSS") / 1024


def peak_during(action: Callable[[], object]) -> float:
    """The largest resident memory of this process while an action runs, MiB."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    action()
    return _status("VmHWM") / 1024


def _status(name: str) -> int:
    """A line of this process's status, kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@contextlib.contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    """A folder of one's own in a given one, or where temporary files go; deleted at the end."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix="autosparse-", dir=folder))
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def forget(folder: Path) -> float:
    """Ask the system to drop a folder's files from its cache; returns the share that it keeps nevertheless."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    pages = np.concatenate([_cached(path) for path in files])
    return float(pages.mean())


def _cached(path: Path) -> Any:
    """Which pages of a file the system's cache holds."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        content = np.frombuffer(mapped, np.uint8)
        pages = np.zeros(-(-len(content) // mmap.PAGESIZE), np.uint8)
        mincore = ctypes.CDLL(None, use_errno=True).mincore
        if mincore(*(ctypes.c_void_p(content.ctypes.data), ctypes.c_size_t(len(content)), pages.ctypes)):
            raise OSError(ctypes.get_errno(), "mincore", str(path))
        del content  # or the map cannot be closed
        return pages & 1


def layout_of(size: int) -> Layout:
    """One layer of `size` parameters."""
    return Layout((Layer("weight", (size,), 0, 1, 1),))


def random_triples(size: int) -> dict[str, NDArray[Any]]:
    """Theta and grad, float32, normal; survival, uint8, of one iteration that keeps half."""
    generator = np.random.Generator(np.random.PCG64(0))
    theta, grad = (generator.standard_normal(size, np.float32) for _ in range(2))
    return {"theta": theta, "grad": grad, "survival": (theta > grad).view(np.uint8)}


def write_store(folder: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """A complete store of such triples."""
    layout = layout_of(len(arrays["theta"]))
    writer = TripleWriter.open(folder, layout, 1, {})
    mask = Mask(layout, torch.from_numpy(arrays["survival"].view(np.bool_)))
    writer.commit_features(*(torch.from_numpy(arrays[name]) for name in ("theta", "grad")))
    writer.commit_alive(1, mask)
    writer.finish()


def ratio(values: Sequence[float]) -> float:
    """The largest over the smallest."""
    return max(values) / min(values)


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
